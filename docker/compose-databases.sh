#!/bin/sh
# Runs once, when Postgres makes its data folder: a database for Airflow and one for MLflow, each with an owner of its own.
set -eu
for name in airflow mlflow; do
  case $name in
    airflow) password=$AIRFLOW_DB_PASSWORD ;;
    mlflow) password=$MLFLOW_DB_PASSWORD ;;
  esac
  psql --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --set "name=$name" --set "password=$password" <<'SQL'
CREATE ROLE :"name" LOGIN PASSWORD :'password';
CREATE DATABASE :"name" OWNER :"name";
REVOKE CONNECT ON DATABASE :"name" FROM PUBLIC;
SQL
done
