#!/usr/bin/env bash
# Airflow on this machine, in the foreground: API server, scheduler, triggerer and DAG processor, on loopback only.
# It keeps everything in $ATLAS_HOME/airflow and ends when one of the four ends. Variables that are set already win over airflow.env.
# (`airflow standalone` is not used: it also opens two log servers to the network.)
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$here/../.." && pwd)"
python="${PYTHON:-python}"

while IFS='=' read -r name value; do
    [[ -z "$name" || "$name" == \#* || -n "${!name+set}" ]] || export "$name=$value"
done < "$here/airflow.env"

umask 077 # the password file and the metadata database are for this user only
mkdir -p "${ATLAS_HOME:=$root/.atlas}"
ATLAS_HOME="$(cd "$ATLAS_HOME" && pwd)"
export ATLAS_HOME
export AIRFLOW_HOME="${AIRFLOW_HOME:-$ATLAS_HOME/airflow}"
export AIRFLOW__CORE__DAGS_FOLDER="${AIRFLOW__CORE__DAGS_FOLDER:-$root/dags}"
export AIRFLOW__API__BASE_URL="${AIRFLOW__API__BASE_URL:-http://127.0.0.1:$AIRFLOW__API__PORT}"
export AIRFLOW__CORE__EXECUTION_API_SERVER_URL="${AIRFLOW__CORE__EXECUTION_API_SERVER_URL:-$AIRFLOW__API__BASE_URL/execution/}"
export PYTHONPATH="$here/config:$root${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONUNBUFFERED=1
mkdir -p "$AIRFLOW_HOME"

"$python" -m airflow db migrate
# Readers don't block writers. The lock wait stays at the default 5 s: with 60 s, requests hung that else fail soon, and clients put them again.
[[ -n "${AIRFLOW__DATABASE__SQL_ALCHEMY_CONN+set}" ]] || "$python" -c 'import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute("pragma journal_mode=wal")' "$AIRFLOW_HOME/airflow.db"

parts=()
stop() {
    trap - EXIT INT TERM
    kill "${parts[@]}" 2> /dev/null || true
    wait "${parts[@]}" 2> /dev/null || true
}
trap stop EXIT
trap 'stop; exit 0' INT TERM

"$python" -m airflow api-server & parts+=($!)
"$python" -m airflow scheduler --skip-serve-logs & parts+=($!)
"$python" -m airflow triggerer --skip-serve-logs & parts+=($!)
"$python" -m airflow dag-processor & parts+=($!)
"$python" -m pipelines.to_airflow.pools & # waits for the API, makes the pools that scenarios name, ends

ended=
wait -n -p ended "${parts[@]}" || true
echo "a part of Airflow (process $ended) has ended: the others are stopped; the lines above say why" >&2
exit 1
