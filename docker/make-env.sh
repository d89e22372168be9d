#!/bin/sh
# Writes the secrets of compose.yaml, all random, into docker/.env, which git ignores and only you may read.
set -eu
umask 077
file=$(dirname "$0")/.env
if [ -e "$file" ]; then
  echo "$file is there already: with other secrets, nothing would open what these have locked. Move it away first." >&2
  exit 1
fi

random() { od -An -N "$1" -t x1 /dev/urandom | tr -d ' \n'; }

cat >"$file" <<EOF
# The images' tag, and what stands before their names: what docker/build.sh printed.
TAG=${TAG:-}
REGISTRY=${REGISTRY:-}

# To log in: user admin.
AIRFLOW_ADMIN_PASSWORD=$(random 12)
MLFLOW_ADMIN_PASSWORD=$(random 12)

# Between the services. Keep them as long as you keep the volumes.
POSTGRES_PASSWORD=$(random 24)
AIRFLOW_DB_PASSWORD=$(random 24)
MLFLOW_DB_PASSWORD=$(random 24)
MLFLOW_NIGHTLY_PASSWORD=$(random 24)
AIRFLOW_FERNET_KEY=$(head -c 32 /dev/urandom | base64 | tr '+/' '-_')
AIRFLOW_JWT_SECRET=$(random 64)
AIRFLOW_SESSION_SECRET=$(random 32)
MLFLOW_SESSION_SECRET=$(random 32)
S3_ACCESS_KEY=$(random 10)
S3_SECRET_KEY=$(random 24)
SEAWEEDFS_VOLUME_KEY=$(random 32)
SEAWEEDFS_FILER_KEY=$(random 32)
EOF
echo "$file written"
