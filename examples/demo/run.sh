#!/usr/bin/env bash
# Starts a development cluster with the demo application, and checks that the demo responds. `make run` calls it.
set -euo pipefail
cd "$(dirname "$0")/../.."
dir=${DEV_DIR:-/var/lib/kontiki/dev}
port=${DEMO_PORT:-8080}
kontiki=$PWD/bin/kontiki
export KUBECONFIG=$dir/kubeconfig

if "$kontiki" dev --data-dir "$dir" status -o json 2>/dev/null | grep -q '"running": true'; then
  echo "The cluster in $dir is up already."
else
  "$kontiki" dev --data-dir "$dir" --publish "$port:30080" --detach | sed '/^$/,$d'
fi
begin=$(date +%s.%N)
step() { printf '%6.1fs  %s\n' "$(echo "$(date +%s.%N) - $begin" | awk '{print $1 - $3}')" "$1"; }
"$kontiki" image import bin/images.tar >/dev/null
step "demo: images imported into every node"
"$kontiki" kubectl apply -f examples/demo/demo.yaml >/dev/null
for name in back front; do
  "$kontiki" kubectl -n demo rollout status "deployment/$name" --timeout=120s >/dev/null
done
step "demo: 6 pods are ready"
answer=
for _ in $(seq 100); do
  if answer=$(curl -fsS -m 5 "http://127.0.0.1:$port/" 2>/dev/null); then break; fi
  sleep 0.1
done
if [ -z "$answer" ]; then
  echo "The demo does not answer at http://127.0.0.1:$port/; see '$kontiki kubectl -n demo get pods' and $dir/logs" >&2
  exit 1
fi
step "demo: its Service answers"
stop="make stop"
[ "$dir" = /var/lib/kontiki/dev ] || stop="make stop DEV_DIR=$dir"
stop=$(printf '%-70s# stop and remove everything' "$stop")
cat <<TXT

  \$ curl http://127.0.0.1:$port/
  ${answer//$'\n'/$'\n'  }

Try next (or open http://127.0.0.1:$port/ in a browser):

  export KUBECONFIG=$dir/kubeconfig PATH=$PWD/bin:\$PATH
  kontiki kubectl -n demo get pods -o wide
  kontiki dev --data-dir $dir kill master-1; kontiki cluster status     # the demo keeps running
  kontiki kubectl -n demo scale deployment/front --replicas=5
  kontiki kubectl -n demo logs deployment/back
  $stop

TXT
