# Runs machine.sh in namespaces and in a cgroup of its own, $1; the other arguments are those of machine.sh.
set -eu
cgroup=$1
shift
for folder in $(grep -E ' - cgroup2? ' /proc/self/mountinfo | awk '{ print $5 }'); do
  mkdir -p "$folder/$cgroup"
  for file in cpuset.cpus cpuset.mems; do # version 1 takes no process where these are empty
    if [ -e "$folder/$file" ] && [ -z "$(cat "$folder/$cgroup/$file")" ]; then cat "$folder/$file" > "$folder/$cgroup/$file"; fi
  done
  echo $$ > "$folder/$cgroup/cgroup.procs"
done
exec unshare --cgroup --mount --net --pid --uts --fork --kill-child=SIGKILL bash -c "$MACHINE" machine "$@"
