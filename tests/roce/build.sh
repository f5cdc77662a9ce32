#!/usr/bin/env bash
# Makes what the RoCE guests boot: Debian's kernel, and an initramfs of Debian packages and the few kernel modules that
# soft-RoCE over virtio needs. Keeps it outside the tree, and prints the folder that holds `vmlinuz` and `initramfs.cpio`.
#
#   tests/roce/build.sh              path of the folder on stdout, progress on stderr
#   RAILBIND_CACHE=DIR               where to keep it (default: $XDG_CACHE_HOME/railbind or ~/.cache/railbind)
#
# Nothing is installed on this machine: the packages are downloaded with package lists of their own and unpacked into the
# image, so no rdma-core or UCX appears here that other tests would see. They come from this machine's own package sources,
# for the agent runs in the guest with the guest's C library and must find the one it was linked with.
# Exits with 77 where the packages cannot be had: another architecture or distribution, or a package that its lists lack.
# Trouble on the way to them is an error, 1. About 80 MB and half a minute the first time, nothing when it is there already.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
script=roce
. "$here/../../scripts/cache.sh"
# iproute2 brings `rdma` and, by libcap2-bin, `capsh`; the agent itself wants libgcc.
packages=(busybox-static ibverbs-providers ibverbs-utils iproute2 libcap2-bin libgcc-s1 ucx-utils)
kernel=linux-image-amd64
# rdma_ucm is what UCX's connection manager needs; rxe asks for crc32 by its alias, not as a dependency.
modules=(virtio_pci virtio_net ib_uverbs rdma_ucm rdma_rxe crc32_generic)

cannot() { say "$*"; exit 77; }

[ "$(uname -m)" = x86_64 ] || cannot "the guests are x86_64 and run this machine's own binaries; this is $(uname -m)"
for tool in apt-get apt-cache dpkg-deb; do
  command -v "$tool" >/dev/null || cannot "the image is made of Debian packages, and there is no $tool here"
done

key=$({ cat "$here/build.sh" "$here/init"; (. /etc/os-release; echo "$ID $VERSION_ID"); } | sha256sum | cut -d' ' -f1)
home=$cache/roce-$key
if [ -e "$home/initramfs.cpio" ]; then
  echo "$home"
  exit 0
fi

hold "$home"
if [ -e "$home/initramfs.cpio" ]; then
  echo "$home"
  exit 0
fi

say "making the guests' image from Debian packages, about half a minute…"
started=$(date +%s)
# What a killed build left.
rm -rf "$home"/work.*
work=$(mktemp -d "$home/work.XXXXXX")
trap 'rm -rf "$work"' EXIT
cd "$work"

# As on a machine where nothing is installed: apt then takes all that the packages need, down to the C library.
mkdir -p lists/partial debs/partial root kernel
: > status
apt=(-qq -o "Dir::State::status=$work/status" -o "Dir::State::lists=$work/lists" -o "Dir::Cache::archives=$work/debs"
  -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= -o APT::Sandbox::User=root -o Debug::NoLocking=1
  -o APT::Update::Error-Mode=any)
apt-get "${apt[@]}" update >&2
for package in "${packages[@]}" "$kernel"; do
  [ -n "$(apt-cache "${apt[@]}" madison "$package")" ] || cannot "this machine's package sources have no $package"
done
apt-get "${apt[@]}" --yes --no-install-recommends --download-only install "${packages[@]}" >&2
# The package above only names the current kernel; to install that would pull in what makes initramfses, which we do here.
kernel=$(apt-cache "${apt[@]}" depends "$kernel" | awk '/Depends: linux-image-/ {print $2; exit}')
(cd kernel && apt-get "${apt[@]}" download "$kernel" >&2)

for deb in debs/*.deb; do dpkg-deb --extract "$deb" root; done
dpkg-deb --extract kernel/*.deb kernel
rm -rf root/usr/share root/usr/include root/var
busybox=$work/root/bin/busybox
mkdir -p root/{dev,proc,sys,tmp,run,host,busybox} "root/lib/modules"
"$busybox" --list | while read -r applet; do ln -s /bin/busybox "root/busybox/$applet"; done
ln -s /bin/busybox root/bin/sh
# The kernel itself calls this path when a driver asks for a module.
ln -s /bin/busybox root/sbin/modprobe
cp "$here/init" root/init
# The agent reads the host's name and version here, as in any container.
cp /etc/os-release root/etc/os-release

version=${kernel#linux-image-}
from=kernel/lib/modules/$version
"$busybox" depmod -b kernel "$version"
for module in "${modules[@]}"; do
  files=$(awk -F: -v name="/$module.ko" '"/" $1 ~ name "$" {print $1 $2}' "$from/modules.dep")
  [ -n "$files" ] || { say "$kernel has no module $module"; exit 1; }
  for file in $files; do install -D -m 644 "$from/$file" "root/lib/modules/$version/$file"; done
done
cp "$from/modules.builtin" "$from/modules.order" "root/lib/modules/$version/"
"$busybox" depmod -b root "$version"

# Not compressed: unpacking would cost an emulated processor seconds, and the page cache holds it anyway.
(cd root && find . | LC_ALL=C sort | "$busybox" cpio -o -H newc) > initramfs.cpio 2>cpio.log || { cat cpio.log >&2; exit 1; }
(cd debs && ls -- *.deb; cd ../kernel && ls -- *.deb) > "$home/packages.txt"
mv "kernel/boot/vmlinuz-$version" "$home/vmlinuz"
# Last, and never half written: this is what says that the image is there.
mv initramfs.cpio "$home/initramfs.cpio"
say "done in $(($(date +%s) - started)) s: $home"
echo "$home"
