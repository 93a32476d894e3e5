#!/usr/bin/env bash
# Builds localhost/atlas-{core,learn,serve,airflow}:latest with docker or podman, whichever is there. Arguments: targets (default: all).
#   BASE_IMAGE or ATLAS_BASE_IMAGE  the base (default: the Dockerfile's)
#   ATLAS_IMAGE_PREFIX (localhost/atlas) and ATLAS_IMAGE_TAG (latest)  what the images are called
#   BUILD_ARGS                      more options for the build
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
works() { command -v "$1" >/dev/null && "$1" info >/dev/null 2>&1; }
if [[ -z ${DOCKER_HOST:-} ]] && ! works docker && [[ -x ../shared/tools/containers-up ]]; then
    eval "$(../shared/tools/containers-up)"
fi
if [[ ${DOCKER_HOST:-} != *podman* ]] && works docker; then
    builder=docker
    export DOCKER_BUILDKIT=1
elif works podman; then
    builder=podman
else
    echo "no container engine answers: start docker or podman, then run this again" >&2
    exit 69
fi
options=()
base=${BASE_IMAGE:-${ATLAS_BASE_IMAGE:-}}
[[ -z $base ]] || options+=(--build-arg "BASE_IMAGE=$base")
if [[ $builder == podman ]]; then
    options+=(--format docker) # OCI images have no HEALTHCHECK
    # shellcheck disable=SC2206
    options+=(${BUILD_ARGS:-})
    if [[ -n ${PIP_FIND_LINKS:-} && -d ${PIP_FIND_LINKS:-} && ${BUILD_ARGS:-} != *"$PIP_FIND_LINKS"* ]]; then
        options+=(--volume "$PIP_FIND_LINKS:$PIP_FIND_LINKS:ro" --env "PIP_FIND_LINKS=$PIP_FIND_LINKS")
    fi
else
    options+=(${BUILD_ARGS:-})
fi
(($#)) || set -- core learn serve airflow
for target in "$@"; do
    name=${ATLAS_IMAGE_PREFIX:-localhost/atlas}-$target:${ATLAS_IMAGE_TAG:-latest}
    echo "building $name"
    $builder build "${options[@]}" --target "$target" --tag "$name" --file infra/images/Dockerfile .
done
