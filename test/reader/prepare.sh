# What brings about the cases that the documents tell of. Each function is called by a comment in a document.

# no_cluster stops the development cluster, if there is one.
no_cluster() { if [ -e /var/lib/kontiki/dev/dev.json ]; then kontiki dev stop --purge; fi; }

# pod says which pod a reader could choose.
pod() { echo "POD=$(kontiki kubectl get pods -l app=web -o jsonpath='{.items[0].metadata.name}')"; }

# web runs the application of getting-started.md.
web() {
  sed -n '/^```yaml file=web.yaml$/,/^```$/p' docs/getting-started.md | sed '1d; $d' > web.yaml &&
    kontiki kubectl apply -f web.yaml && kontiki kubectl rollout status deployment/web
}

# cluster starts the development cluster of getting-started.md with its application, with $1 masters and $2 workers.
cluster() {
  no_cluster
  kontiki dev --detach --masters "$1" --workers "$2" --publish 8080:30080 && kontiki image import bin/images.tar && web
}

three_masters() { cluster 3 2; }

# one_machine is for documents that begin with what getting-started.md has started.
one_machine() { { [ -e /var/lib/kontiki/dev/dev.json ] && web; } || cluster 1 1; }

# no_web removes the application, so that another one can have its name, and says which image a reader could choose.
no_web() { kontiki kubectl delete deployment web && echo IMAGE=busybox; }

# web_again replaces what has the name of the application by the application.
web_again() { kontiki kubectl delete hpa,deployment web && web; }

# version says to which version a reader could upgrade.
version() { echo "VERSION=$(kontiki --version | awk '{ print $3 }')"; }

# readme makes the files that a reader of README.md could have.
readme() {
  mkdir -p release && ln -sf "$PWD/bin/images.tar" saved.tar &&
    kontiki kubectl create configmap release --from-literal=a=b --dry-run=client -o yaml > release/configmap.yaml &&
    echo FILE=saved && echo DIR=release
}

# audit_policy saves the policy of audit.md.
audit_policy() { sed -n '/^```yaml file=audit.yaml$/,/^```$/p' docs/audit.md | sed '1d; $d' > audit.yaml; }

# shop runs the application in the namespace shop, and says which pod of it a reader could choose.
shop() {
  kontiki kubectl create namespace shop --dry-run=client -o yaml | kontiki kubectl apply -f - &&
    kontiki kubectl create deployment web -n shop --image=busybox --dry-run=client -o yaml -- sleep 1000 | sed 's/image: busybox/&\n        imagePullPolicy: IfNotPresent/' |
    kontiki kubectl apply -f - && kontiki kubectl rollout status -n shop deployment/web &&
    echo "POD=$(kontiki kubectl get pods -n shop -o jsonpath='{.items[0].metadata.name}')"
}

# file says how a reader could call a file.
file() { echo FILE=saved.snapshot; }

# answers waits until the kubeconfig of the development cluster is of the cluster's new CA, which takes seconds.
answers() { until kontiki cluster status > /dev/null; do sleep 0.2; done; }

# no_migration removes the migration that a reader would create.
no_migration() { kontiki kubectl delete storageversionmigration roles --ignore-not-found; }

# deleted deletes what a reader would like to have back.
deleted() {
  one_machine && shop && kontiki kubectl create configmap settings --from-literal=a=b && kontiki kubectl create secret generic key --from-literal=a=b &&
    kontiki kubectl delete deployment/web service/web configmap/settings secret/key && kontiki kubectl delete namespace shop
}

# make does not build again what is built: the test's own target did.
make() { command make -o deps -o build -o images "$@"; }

# curl shows no progress, as on a terminal.
curl() { command curl -sS "$@"; }

# The cases of troubleshooting.md.

# too_big makes a pod that fits no node.
too_big() {
  kontiki kubectl run big --image=busybox --overrides='{"spec": {"containers": [{"name": "big", "image": "busybox", "resources": {"requests": {"cpu": "100"}}}]}}' &&
    kontiki kubectl wait --for=condition=PodScheduled=false pod/big
}

# over_quota lets the application want more pods than a quota allows.
over_quota() {
  kontiki kubectl delete pod big && kontiki kubectl create quota q --hard=pods=2 && kontiki kubectl scale deployment/web --replicas=3 &&
    kontiki kubectl wait --for=condition=ReplicaFailure deployment/web
}

# crashes makes a container that ends soon, and waits until it is restarted with pauses.
crashes() {
  kontiki kubectl delete quota q && kontiki kubectl scale deployment/web --replicas=2 &&
    kontiki kubectl run crash --image=busybox --image-pull-policy=IfNotPresent -- sh -c 'echo "cannot open /etc/app.conf"; exit 3' &&
    until kontiki why crash | grep -q 'restarted 2 times'; do sleep 0.5; done
}

# dead_worker kills the worker and waits until its node is not ready; bad_webhook starts it again, and lets a webhook that does not answer refuse ConfigMaps.
dead_worker() {
  kontiki kubectl delete pod crash && kontiki dev kill worker-1 && kontiki kubectl wait --for=condition=Ready=Unknown node/worker-1 --timeout=60s
}
bad_webhook() {
  kontiki dev start worker-1 && kontiki kubectl wait --for=condition=Ready node/worker-1 --timeout=60s && kontiki kubectl create -f - <<'END'
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: check}
webhooks:
- name: check.example.com
  clientConfig: {service: {namespace: bad, name: nosuch}}
  rules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [configmaps]}]
  sideEffects: None
  admissionReviewVersions: [v1]
END
}
webhook() { echo NAME=check; }

# stuck deletes a namespace that a finalizer holds.
stuck() {
  kontiki kubectl create namespace stuck && kontiki kubectl create configmap held -n stuck &&
    kontiki kubectl patch configmap held -n stuck --type=merge -p '{"metadata": {"finalizers": ["example.com/hold"]}}' &&
    kontiki kubectl delete namespace stuck --wait=false && kontiki kubectl wait --for=condition=NamespaceFinalizersRemaining namespace/stuck
}

# What follows is for hosts of a cluster of their own. Their daemons have logs in /var/log.

# logged FILE TEXT waits until a log has the text.
logged() {
  for _ in $(seq 300); do
    if grep -qs "$2" "$1"; then return; fi
    sleep 0.2
  done
  tail -n 20 "$1"
  return 1
}

# runtime starts containerd, as a package would.
runtime() {
  if [ -S /run/containerd/containerd.sock ]; then return; fi
  setsid containerd >> /var/log/containerd.log 2>&1 &
  logged /var/log/containerd.log 'containerd successfully booted'
}

# daemon ROLE ARGS... starts kontiki server or agent, and returns when it is up, which systemd would learn by sd_notify.
daemon() {
  runtime || return
  ready='this master is ready'
  if [ "$1" = agent ]; then ready='session begins'; fi
  : > /var/log/kontiki.log
  setsid "$(type -P kontiki)" "$@" > /var/log/kontiki.log 2>&1 &
  logged /var/log/kontiki.log "$ready"
}

# kontiki server and agent stay in the foreground: a reader opens another terminal.
kontiki() {
  case $1 in
    server | agent) daemon "$@" ;;
    *) command kontiki "$@" ;;
  esac
}

# systemctl enable --now|start UNIT starts the unit's program, systemctl stop UNIT ends it.
systemctl() {
  unit=deploy/systemd/${!#}.service
  if [ "$1" = stop ]; then
    pkill -x kontiki
    while pgrep -x kontiki > /dev/null; do sleep 0.1; done
  else
    daemon $(sed -n 's|^ExecStart=/usr/bin/kontiki ||p' "$unit")
  fi
}

# power_off ends all at once, and unplugs the network; power_on is the opposite.
power_off() { pkill -KILL -x kontiki; ip link set eth0 down; }
power_on() { ip link set eth0 up && ip route replace default via 10.0.0.1 && systemctl start kontiki-server; }
