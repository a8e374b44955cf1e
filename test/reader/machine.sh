# Makes a machine out of namespaces: its own network, processes, cgroups and folders, with a clone of the repository. $1 is the repository, $2 an empty folder,
# $3 and $4 the program and the images that `make build images` would make, $5 the name of the machine.
set -eu
mount --make-rprivate /
mount -t proc proc /proc
ip link set lo up

mount -t tmpfs tmpfs "$2"
mkdir "$2/upper" "$2/work"
exec 3<"$3" 4<"$4" # from now on the overlay hides the repository's own files
mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" "$1"
mkdir -p "$1/bin"
built() { # built FD FILE
  if ! [ "$2" -ef "/proc/self/fd/$1" ]; then
    touch "$2"
    mount --bind "/proc/self/fd/$1" "$2"
    mount -o remount,bind,ro "$2"
  fi
}
built 3 "$1/bin/kontiki"
built 4 "$1/bin/images.tar"
exec 3<&- 4<&-
mkdir -p /var/lib/kontiki /var/lib/containerd "$2/etc" "$2/etc-work"
mount -t overlay overlay -o "lowerdir=/etc,upperdir=$2/etc,workdir=$2/etc-work" /etc
rm -rf /etc/kontiki
mkdir /etc/kontiki
for folder in /run /var/lib/kontiki /var/lib/containerd /var/log; do mount -t tmpfs -o mode=755 tmpfs "$folder"; done
mkdir -p /run/lock

# Its cgroup is the root that it sees, with processes in a cgroup of their own: version 2 wants none beside other cgroups.
grep -E ' - cgroup2? ' /proc/self/mountinfo | awk '{ print $5, $(NF - 2), $NF }' > "$2/cgroups"
if grep -q '^/sys/fs/cgroup cgroup2 ' "$2/cgroups"; then umount /sys/fs/cgroup; else mount -t tmpfs tmpfs /sys/fs/cgroup; fi
while read -r folder type options; do
  mkdir -p "$folder"
  if [ "$type" = cgroup2 ]; then mount -t cgroup2 cgroup2 "$folder"; else mount -t cgroup -o "${options#rw,}" cgroup "$folder"; fi
done < "$2/cgroups"
hostname "$5"
grep -v "$5" /etc/hosts > "$2/hosts" || true
printf '10.0.0.%s\n' '11 host-1' '12 host-2' '13 host-3' '21 host-4' >> "$2/hosts"
cat "$2/hosts" > /etc/hosts
echo ready
exec sleep infinity
