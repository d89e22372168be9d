#!/bin/sh
# Removes old task logs, for ever. The official Helm chart runs it beside Airflow's components, as /clean-logs, and says
# in the environment after how many days, and every how many minutes.
folder=${AIRFLOW_HOME:-/opt/airflow}/logs
while true; do
  find "$folder" -type f -mtime "+${AIRFLOW__LOG_RETENTION_DAYS:-15}" -name '*.log*' -delete
  find "$folder" -mindepth 1 -type d -empty -mtime +1 -delete
  sleep "$((${AIRFLOW__LOG_CLEANUP_FREQUENCY_MINUTES:-15} * 60))"
done
