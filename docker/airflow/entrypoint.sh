#!/bin/sh
# Runs what it is given, as the official image does: `airflow scheduler`, `scheduler`, `bash -c ...`, `python -m ...`.
# The official Helm chart's probes call it by its path, /entrypoint.
umask 0002 # what one arbitrary user of group 0 makes, the next may change (OpenShift)
case ${1:-} in
  airflow | bash | bc | python | sh | /*) exec "$@" ;;
  *) exec airflow "$@" ;;
esac
