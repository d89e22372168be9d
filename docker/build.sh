#!/usr/bin/env bash
# Builds the images with docker (BuildKit), podman or buildah: the first of them that works here.
#
#   docker/build.sh [airflow] [trainer] [mlflow] [airflow-with-trainer]     the first three, if you name none
#
# What can be said in the environment, or as `make images NAME=value`:
#   BASE_IMAGE       what they are built on: a Debian with Python 3.11 and its venv module (see base-image.sh)
#   WEIGHTS          what the trainer may start from: a folder of <timm name>.safetensors, or timm names to fetch
#   REGISTRY         goes before the names, e.g. images.hospital.example/ml
#   TAG              default: the code's version
#   PIP_CONF, UV_CONF, CA_CERTIFICATES
#                    your package index and certificate authority, lent to the build and left in no image;
#                    default: what this machine has
#   BUILDER          docker, podman or buildah
set -euo pipefail
cd "$(dirname "$0")/.."

main() {
  local builder version revision tag options=() name
  builder=${BUILDER:-$(find_builder)}
  revision=$(git describe --always --exclude='*' --dirty=.changed 2>/dev/null || echo unknown)
  version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)+$revision
  tag=${TAG:-${version//+/-}} # a tag has no plus sign
  options=(--build-arg "CODE_VERSION=$version" --build-arg "REVISION=$revision")
  if [ -n "${BASE_IMAGE:-}" ]; then options+=(--build-arg "BASE_IMAGE=$BASE_IMAGE"); fi
  lend pip.conf "${PIP_CONF:-/etc/pip.conf}"
  lend uv.toml "${UV_CONF:-/etc/uv/uv.toml}"
  lend ca.crt "${CA_CERTIFICATES:-/etc/ssl/certs/ca-certificates.crt}"

  if [ $# -eq 0 ]; then set -- airflow trainer mlflow; fi
  for name in "$@"; do
    build "$builder" "$name" "${REGISTRY:+$REGISTRY/}bc-$name:$tag" "${options[@]}"
  done
  for name in "$@"; do
    show_size "$builder" "${REGISTRY:+$REGISTRY/}bc-$name:$tag"
  done
}

find_builder() {
  local builder
  for builder in docker podman buildah; do
    if "$builder" info >/dev/null 2>&1; then
      echo "$builder"
      return
    fi
  done
  echo "Neither docker, podman nor buildah works here: install one, or start docker's daemon." >&2
  return 1
}

# Appends to main's options; a secret is a file that one step of the build sees and no layer keeps.
lend() {
  if [ -f "$2" ]; then options+=(--secret "id=$1,src=$2"); fi
}

build() {
  local builder=$1 name=$2 image=$3 folder=docker/${2%-with-trainer}
  shift 3
  set -- "$@" --file "$folder/Dockerfile" --tag "$image"
  if [ "$name" = airflow-with-trainer ]; then set -- "$@" --build-arg WITH_TRAINER=yes; fi
  if [ "$name" = trainer ] && [ -d "${WEIGHTS:-}" ]; then
    set -- "$@" --build-context "weights=$(realpath "$WEIGHTS")"
  elif [ "$name" = trainer ]; then
    set -- "$@" --build-arg "WEIGHTS=${WEIGHTS:-}"
  fi
  echo "building $image with $builder"
  case $builder in
    docker) DOCKER_BUILDKIT=1 docker build "$@" . ;; # finds Dockerfile.dockerignore by itself
    # OCI's own format has no health checks.
    podman | buildah) "$builder" build --layers --format docker --ignorefile "$folder/Dockerfile.dockerignore" "$@" . ;;
  esac
}

show_size() {
  case $1 in
    docker | podman) "$1" images --format '{{.Repository}}:{{.Tag}}  {{.Size}}' "$2" ;;
    buildah) buildah images --format '{{.Name}}:{{.Tag}}  {{.Size}}' "$2" ;;
  esac
}

main "$@"
