#!/usr/bin/env bash
# Makes a base image from Debian's own packages, where no image registry can be reached: `make base-image`, as root.
#
#   docker/base-image.sh [NAME]       default: bc-base:bookworm; then: make images BASE_IMAGE=bc-base:bookworm
#
# In the environment: MIRROR, a mirror of Debian (default: debootstrap's), SECURITY_MIRROR (default: beside it, as
# <mirror>-security), and BUILDER as in build.sh. Needs debootstrap.
set -euo pipefail

name=${1:-bc-base:bookworm}
builder=${BUILDER:-}
for candidate in docker podman buildah; do
  if [ -z "$builder" ] && "$candidate" info >/dev/null 2>&1; then builder=$candidate; fi
done
folder=$(mktemp --directory)
trap 'rm -rf "$folder"' EXIT
root=$folder/root

debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv bookworm "$root" ${MIRROR:+"$MIRROR"} \
  >"$folder/log" || { tail -n 20 "$folder/log" >&2; exit 1; }
mirror=$(awk '$1 == "deb" { print $2; exit }' "$root/etc/apt/sources.list")
cat >"$root/etc/apt/sources.list" <<EOF
deb $mirror bookworm main
deb $mirror bookworm-updates main
deb ${SECURITY_MIRROR:-${mirror%/}-security} bookworm-security main
EOF
cp /etc/resolv.conf "$root/etc/resolv.conf"
chroot "$root" sh -e -c 'apt-get -qq update; DEBIAN_FRONTEND=noninteractive apt-get -qq upgrade; apt-get clean' >"$folder/log" 2>&1 \
  || { tail -n 20 "$folder/log" >&2; exit 1; }
# What nobody reads in a container: package lists, manuals, translations, logs; and what names this machine.
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/* "$root"/var/log/* "$root"/usr/share/{doc,info,locale,man}/* \
  "$root/etc/hostname" "$root/etc/resolv.conf" "$root/etc/machine-id"

case $builder in
  docker | podman) tar --create --directory "$root" . | "$builder" import - "$name" ;;
  buildah)
    container=$(buildah from scratch)
    buildah copy --quiet "$container" "$root" /
    buildah config --cmd python3 "$container"
    buildah commit --quiet --rm "$container" "$name"
    ;;
  *) echo "Neither docker, podman nor buildah works here." >&2; exit 1 ;;
esac
echo "$name  $(du --summarize --human-readable --one-file-system "$root" | cut -f1)"
