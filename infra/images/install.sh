#!/bin/sh
# Installs pyproject's dependencies, and the extras named, into /opt/venv, pinned by constraints.txt. Used by the Dockerfile.
#   install.sh [--airflow] [--extra NAME …]   |   install.sh --kfp-executor
set -eu
[ -z "${PIP_CERT:-}" ] || export SSL_CERT_FILE="$PIP_CERT"
[ -z "${PIP_FIND_LINKS:-}" ] || export UV_FIND_LINKS="$PIP_FIND_LINKS"
[ -z "${EXTRA_INDEX_URL:-}" ] || export UV_EXTRA_INDEX_URL="$EXTRA_INDEX_URL" UV_INDEX_STRATEGY=unsafe-best-match
export UV_NO_CACHE=1 UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 UV_PYTHON=/opt/venv/bin/python
install="/opt/uv/bin/uv pip install --quiet"
pins=constraints.txt more=
case "${1:-}" in
--kfp-executor) # KFP's shims need its executor, not its client: no dependencies
    exec $install --no-deps "$(grep '^kfp==' constraints.txt)"
    ;;
--airflow) # its own list of pins replaces those of constraints.txt
    sed -n 's/==.*/==/p' airflow.txt >/tmp/replaced.txt
    grep -v -F -f /tmp/replaced.txt constraints.txt >/tmp/pins.txt
    pins=/tmp/pins.txt more="--requirements airflow.txt"
    shift
    ;;
esac
$install --constraints "$pins" --requirements pyproject.toml $more "$@"
