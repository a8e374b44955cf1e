# Kontiki's commands. `make run` and `make test` are all that a newcomer needs: both install what is missing.
SHELL := /bin/bash
.DEFAULT_GOAL := build
.SUFFIXES:

GO          ?= go
# The binary carries no path of the machine that built it. Tests and checks are built in the same way, so that each package is compiled once for all.
export GOFLAGS := $(GOFLAGS) -trimpath
# It is linked statically, so that it runs on any Linux; what images contain is built in the same way, from the same compiled packages.
export CGO_ENABLED ?= 0
COMMIT      := $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
BUILD_DATE  := $(shell git log -1 --format=%cd --date=format-local:%Y-%m-%dT%H:%M:%SZ 2>/dev/null || echo 1970-01-01T00:00:00Z)
K8S_VERSION := v1.37.2
version_of   = -X $(1).gitVersion=$(K8S_VERSION) -X $(1).gitMajor=1 -X $(1).gitMinor=37 -X $(1).gitCommit=$(COMMIT) -X $(1).buildDate=$(BUILD_DATE)
PROCESS     := github.com/kontiki/kontiki/cmd/kontiki/process
LDFLAGS     := -s -w -X $(PROCESS).buildCommit=$(COMMIT) -X $(PROCESS).BuildDate=$(BUILD_DATE) \
               $(call version_of,k8s.io/component-base/version) $(call version_of,k8s.io/client-go/pkg/version)

# The directory of the development cluster of `make run`, and the local port of the demo.
DEV_DIR     ?= /var/lib/kontiki/dev
DEMO_PORT   ?= 8080

# Debian packages that are needed beyond Go, each with the program that shows that it is installed.
DEB_PACKAGES := containerd:containerd runc:runc nftables:nft iproute2:ip conntrack:conntrack busybox-static:busybox curl:curl docker-registry:docker-registry dbus-daemon:dbus-daemon

PROTOC_GEN_GO      := google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.11
PROTOC_GEN_GO_GRPC := google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2
GRPCURL            := github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3
BUF                := github.com/bufbuild/buf/cmd/buf@v1.50.0
STATICCHECK        := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOTESTSUM          := gotest.tools/gotestsum@v1.13.0
TOOLS  := $(CURDIR)/.tools
PROTOS := $(shell find proto -name '*.proto')

.PHONY: build run stop test unit clocks e2e reader browser page page-tests pictures dashboard-figures soak peers sanity upstream compare suite conformance observe operators lint fuzz bench bench-scale robustness generate released deps images vendors node install deb help

help: ## list the commands
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

build: ## build bin/kontiki
	@mkdir -p bin
	@echo "building bin/kontiki (the first time this takes some minutes)"
	@$(GO) build -ldflags '$(LDFLAGS)' -o bin/kontiki ./cmd/kontiki

node: ## install the packages for the tests in Node.js, at the versions of package-lock.json
	@if ! command -v npm >/dev/null; then $(MAKE) -s deps DEB_PACKAGES="nodejs:node npm:npm"; fi
	@cd test/node && npm ci --silent --omit=dev

images: ## build bin/images.tar: the images of the demo and of the tests
	@$(GO) run ./test/images -out bin/images.tar

vendors: ## build bin/vendors.tar: Kubernetes' sample device plugin, its test driver of dynamic resource allocation, a CSI driver
	@$(GO) run ./test/images -vendors -out bin/vendors.tar

deps: ## install missing packages on Debian; elsewhere list them
	@missing=""; for p in $(DEB_PACKAGES); do \
	  PATH=$$PATH:/usr/sbin:/sbin command -v $${p#*:} >/dev/null || missing="$$missing $${p%%:*}"; done; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if ! command -v apt-get >/dev/null; then \
	  echo "Please install, with this system's package manager:$$missing"; exit 1; fi; \
	if [ "$$(id -u)" != 0 ]; then echo "Run as root, or install:$$missing"; exit 1; fi; \
	echo "Installing$$missing"; \
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null

run: deps build images ## start 3 masters, 2 workers and a demo application on this machine
	@DEV_DIR=$(DEV_DIR) DEMO_PORT=$(DEMO_PORT) examples/demo/run.sh

stop: ## stop and remove the cluster of `make run`
	@if [ -x bin/kontiki ]; then bin/kontiki dev --data-dir $(DEV_DIR) stop --purge; fi

# Units in /usr/local/lib/systemd/system are found by systemd. DESTDIR installs into another root.
PREFIX ?= /usr/local
install: build ## install the program, units, manual pages and completions below PREFIX (/usr/local)
	deploy/install.sh bin/kontiki "$(DESTDIR)" $(PREFIX)
	@if [ -z "$(DESTDIR)" ] && [ -d /run/systemd/system ]; then systemctl daemon-reload; fi

deb: build ## build bin/kontiki.deb
	@$(MAKE) -s deps DEB_PACKAGES="dpkg:dpkg-deb"
	deploy/debian/build.sh bin/kontiki bin/kontiki.deb

test: deps lint unit clocks page-tests e2e browser ## everything that fits in 30 minutes, from a clean clone

# Tests in real time, with processes, disks and networks, can fail once on a busy machine. When at most $(1) tests fail, each is run once more,
# by itself; a data race is never excused. The summary at the end shows what failed first: a test in it is a bug to mend.
again = $(GO) run $(GOTESTSUM) --format standard-quiet --hide-summary skipped --rerun-fails=1 --rerun-fails-max-failures=$(1) \
        --rerun-fails-run-root-test --rerun-fails-abort-on-data-race

# The folders that have benchmarks.
BENCHMARKED = $$(grep -rlE --include='*_test.go' '^func Benchmark' . | grep -v '^./test/' | xargs -n1 dirname | sort -u)

unit: deps
	@mkdir -p bin
	$(call again,4) --packages "$$($(GO) list ./... | grep -vE '/test/(e2e|cases|bench|soak|packaging|browser|reader|operators)(/|$$)' | tr '\n' ' ')" -- -timeout 20m
	@echo "each benchmark once, to see that it still works"
	@$(GO) test -run '^$$' -bench . -benchtime 1x $(BENCHMARKED) >$(CURDIR)/bin/benchmarks.log 2>&1 || { cat $(CURDIR)/bin/benchmarks.log; exit 1; }

# A Go runtime whose wall clock can be set independently of its monotonic clock, for tests that set the clocks of masters.
clocks: ## test masters whose wall clocks are set, with a patched Go runtime
	@mkdir -p $(TOOLS)
	@sed 's/^\treturn time_now()$$/\tsec, nsec, mono = time_now()\n\treturn sec + wallJump, nsec, mono/' $$($(GO) env GOROOT)/src/runtime/time.go > $(TOOLS)/time.go
	@printf '\n//go:linkname wallJump\nvar wallJump int64\n' >> $(TOOLS)/time.go
	@grep -q 'sec + wallJump' $(TOOLS)/time.go || { echo "runtime/time.go of $$($(GO) version) is not as this target expects"; exit 1; }
	@echo '{"Replace": {"'$$($(GO) env GOROOT)'/src/runtime/time.go": "$(TOOLS)/time.go"}}' > $(TOOLS)/clocks.json
	$(GO) test -overlay $(TOOLS)/clocks.json -tags clocks -run 'TestClocksThatAreSet' ./cluster

e2e: deps build images vendors node
	GOBIN=$(TOOLS) $(GO) install $(GRPCURL)
	GRPCURL=$(TOOLS)/grpcurl KONTIKI=$(CURDIR)/bin/kontiki IMAGES=$(CURDIR)/bin/images.tar VENDORS=$(CURDIR)/bin/vendors.tar $(call again,3) --packages "./test/e2e/... ./test/cases/... ./test/packaging ./test/reader ./test/soak" -- -count=1 -p 1 -timeout 45m

# The dashboard's page. What is built of dashboard/web is committed, so that building the binary needs no Node.js. Vite needs a newer one than Debian 12 has.
NPM_DEPS := if ! command -v npm >/dev/null; then $(MAKE) -s deps DEB_PACKAGES="nodejs:node npm:npm"; fi
page: ## build the dashboard's page: dashboard/dist from dashboard/web
	@$(NPM_DEPS)
	cd dashboard/web && npm ci --silent && npm run --silent check && npm run --silent build

page-tests: ## test the page's logic, and that dashboard/dist is what dashboard/web builds
	@$(NPM_DEPS)
	@if ! node -e 'const [a, b] = process.versions.node.split(".").map(Number); process.exit(a > 22 || (a === 22 && b >= 12) || (a === 20 && b >= 19) ? 0 : 1)'; then \
	  echo "NOT CHECKED: the page's types and logic, and whether dashboard/dist is what dashboard/web builds: Node.js $$(node --version) is too old for Vite (20.19 or newer)"; exit 0; fi; \
	cd dashboard/web && npm ci --silent && npm run --silent check && npm test --silent && \
	npx vite build --logLevel warn --outDir "$(CURDIR)/bin/page" --emptyOutDir && \
	diff -r "$(CURDIR)/bin/page" ../dist && echo "dashboard/dist is what dashboard/web builds"

reader: deps build images ## do what the documents say, command by command, on machines made of namespaces
	KONTIKI=$(CURDIR)/bin/kontiki IMAGES=$(CURDIR)/bin/images.tar $(GO) test -count=1 -v -timeout 15m ./test/reader

# Playwright's own browsers are not downloaded: Debian's Chromium is used.
browser: deps build images ## test the dashboard in Chromium against a cluster (SPEC=signin runs one file)
	@$(NPM_DEPS)
	@if ! command -v chromium >/dev/null; then $(MAKE) -s deps DEB_PACKAGES="chromium:chromium"; fi
	@cd test/browser && PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD=1 npm ci --silent && npm run --silent check
	KONTIKI=$(CURDIR)/bin/kontiki IMAGES=$(CURDIR)/bin/images.tar SPEC="$(SPEC)" $(GO) test -count=1 -v -timeout 15m ./test/browser

# Pages are judged by looking at them. ONLY=map takes those whose names match.
PICTURES ?= $(CURDIR)/bin/pictures
pictures: deps build images ## photograph every page of the dashboard, on a desktop and a phone, in both themes, into bin/pictures
	@$(NPM_DEPS)
	@if ! command -v chromium >/dev/null; then $(MAKE) -s deps DEB_PACKAGES="chromium:chromium"; fi
	@cd test/browser && PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD=1 npm ci --silent && npm run --silent check
	PICTURES=$(PICTURES) ONLY="$(ONLY)" KONTIKI=$(CURDIR)/bin/kontiki IMAGES=$(CURDIR)/bin/images.tar $(GO) test -count=1 -v -timeout 40m -run TestPictures ./test/browser

FIGURES ?= 30000
dashboard-figures: deps build ## measure the dashboard's list of FIGURES pods: first row, memory, scrolling; times are not asserted
	@$(NPM_DEPS)
	@if ! command -v chromium >/dev/null; then $(MAKE) -s deps DEB_PACKAGES="chromium:chromium"; fi
	@cd test/browser && PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD=1 npm ci --silent && npm run --silent check
	FIGURES=$(FIGURES) KONTIKI=$(CURDIR)/bin/kontiki $(GO) test -count=1 -v -timeout 20m -run TestFigures ./test/browser

SOAK := 10m
soak: deps build images ## create and delete pods for SOAK while agents and containerd are killed, and see that nothing is left (SOAK_SEED=N repeats one)
	KONTIKI=$(CURDIR)/bin/kontiki IMAGES=$(CURDIR)/bin/images.tar SOAK=$(SOAK) SOAK_SEED=$(SOAK_SEED) $(GO) test -count=1 -v -timeout 60m ./test/soak

observe: deps build images ## check what deploy has for Prometheus and Grafana, and docs/reference-metrics.md, against a cluster (UPDATE=1 writes the latter)
	cd test/observe && UPDATE=$(UPDATE) KONTIKI=$(CURDIR)/bin/kontiki IMAGES=$(CURDIR)/bin/images.tar $(GO) test -count=1 -timeout 10m .

# The programs that Kontiki is tested with and compared with. They are built from modules of their own, and take minutes the first time.
UPSTREAM := kube-apiserver kube-controller-manager kube-scheduler
upstream: ## build bin/upstream: kube-apiserver, kube-controller-manager, kube-scheduler and etcd
	@mkdir -p bin/upstream
	@cd test/upstream && [ "$$($(GO) list -m -f '{{.Version}}' k8s.io/kubernetes)" = $(K8S_VERSION) ] || { echo "test/upstream/go.mod is not at $(K8S_VERSION)"; exit 1; }
	cd test/upstream && $(GO) build -ldflags '-s -w $(call version_of,k8s.io/component-base/version) $(call version_of,k8s.io/client-go/pkg/version)' \
	  -o $(CURDIR)/bin/upstream/ $(UPSTREAM:%=k8s.io/kubernetes/cmd/%)
	cd test/bench/etcd && $(GO) build -ldflags '-s -w' -o $(CURDIR)/bin/upstream/etcd go.etcd.io/etcd/server/v3

COMPARE ?=
compare: deps build upstream ## compare with upstream's control plane: one workload against both in turn (COMPARE="-rounds 4" passes flags)
	cd test/compare && $(GO) test . && $(GO) build -o $(CURDIR)/bin/compare .
	bin/compare $(COMPARE)

peers: deps build images upstream ## run Helm, a controller-runtime manager, and upstream's scheduler and controller manager against clusters
	cd test/peers && KONTIKI=$(CURDIR)/bin/kontiki IMAGES=$(CURDIR)/bin/images.tar UPSTREAM=$(CURDIR)/bin/upstream $(GO) test -count=1 -timeout 20m .

# Each program is built in a module of its own, with the libraries of its release: minutes the first time.
operators: deps build images ## run operators and extension API servers that others publish, as containers in a cluster
	@$(GO) run ./test/images -operators -out bin/operators.tar
	KONTIKI=$(CURDIR)/bin/kontiki IMAGES=$(CURDIR)/bin/images.tar OPERATORS=$(CURDIR)/bin/operators.tar $(GO) test -count=1 -timeout 20m ./test/operators

# The driver runs in a mount namespace of its own, so that nothing that it mounts is left.
sanity: ## run the sanity suite of CSI drivers (csi-test) against the driver of the tests
	@mkdir -p bin
	$(GO) build -o bin/csidriver ./test/csidriver/cmd
	cd test/sanity && $(GO) test -c -o $(CURDIR)/bin/sanity.test .
	@dir=$$(mktemp -d) && trap 'rm -rf "$$dir"' EXIT && unshare --mount --propagation private sh -c '\
	  "$(CURDIR)/bin/csidriver" -dir "$$1/volumes" -node sanity -socket "$$1/csi.sock" & driver=$$!; \
	  while [ ! -S "$$1/csi.sock" ] && kill -0 $$driver; do sleep 0.1; done; \
	  CSI_SOCKET="$$1/csi.sock" "$(CURDIR)/bin/sanity.test" -test.v; code=$$?; kill $$driver; wait $$driver; exit $$code' sh "$$dir"

# The suite, its runner, and the programs in its images. FOCUS is a regular expression that selects tests by name.
SUITE_IMAGES := agnhost nonewprivs regression-issue-74839 resource-consumer resource-consumer/consume-cpu
suite: deps
	@$(MAKE) -s deps DEB_PACKAGES="debootstrap:debootstrap bash-static:bash-static"
	@mkdir -p bin/upstream
	@echo "building upstream's conformance suite (the first time this takes 20 minutes)"
	cd test/upstream && $(GO) test -c -ldflags '-s -w $(call version_of,k8s.io/component-base/version) $(call version_of,k8s.io/client-go/pkg/version)' \
	  -o $(CURDIR)/bin/upstream/e2e.test k8s.io/kubernetes/test/e2e
	cd test/upstream && $(GO) build -ldflags '-s -w' -o $(CURDIR)/bin/upstream/ github.com/onsi/ginkgo/v2/ginkgo
	cd test/upstream && $(GO) build -ldflags '-s -w' -o $(CURDIR)/bin/upstream/ $(SUITE_IMAGES:%=k8s.io/kubernetes/test/images/%)
	cd test/operators/sampleapiserver && $(GO) build -ldflags '-s -w' -o $(CURDIR)/bin/upstream/sample-apiserver k8s.io/sample-apiserver
	cd test/bench/etcd && $(GO) build -ldflags '-s -w' -o $(CURDIR)/bin/upstream/etcd go.etcd.io/etcd/server/v3

conformance: build suite ## run upstream's conformance tests, or those that FOCUS selects (docs/conformance.md)
	KONTIKI=$(CURDIR)/bin/kontiki $(GO) run ./test/conformance -focus '$(FOCUS)'

lint: ## gofmt, go vet, staticcheck, and buf: the rules of the protocols, and that kontiki.v1 only grew since its last release
	@wrong=$$("$$($(GO) env GOROOT)/bin/gofmt" -l $$(git ls-files '*.go')) && test -z "$$wrong" || { echo "run gofmt -w $$wrong"; exit 1; }
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...
	$(GO) run $(BUF) lint
	$(GO) run $(BUF) breaking --against proto/released.binpb

FUZZTIME ?= 30s
fuzz: ## fuzz each target for FUZZTIME; `make test` runs their seeds
	@grep -rE --include='*_test.go' '^func Fuzz' . | sed -E 's/^(.*)\/[^/]*:func (Fuzz[A-Za-z0-9]+).*/\1 \2/' | while read -r folder name; do \
	  echo "$$folder $$name"; $(GO) test -run '^$$' -fuzz "^$$name$$" -fuzztime $(FUZZTIME) $$folder || exit 1; \
	done

released: ## record the protocols of a release, with which later ones must stay compatible
	$(GO) run $(BUF) build --path proto/kontiki/v1 -o proto/released.binpb

bench: deps build images ## run the benchmarks; nothing is asserted
	$(GO) test -run '^$$' -bench . -skip 'Failover|HandOver' -benchmem $(BENCHMARKED)
	$(GO) test -run '^$$' -bench 'Failover|HandOver' -benchtime 20x ./cluster
	KONTIKI=$(CURDIR)/bin/kontiki IMAGES=$(CURDIR)/bin/images.tar $(GO) test -run '^$$' -bench Idle -benchtime 60x ./test/bench
	KONTIKI=$(CURDIR)/bin/kontiki IMAGES=$(CURDIR)/bin/images.tar $(GO) test -run '^$$' -bench AfterBurst -benchtime 1x -timeout 30m ./test/bench
	KONTIKI=$(CURDIR)/bin/kontiki IMAGES=$(CURDIR)/bin/images.tar $(GO) test -run '^$$' -bench . -skip 'Idle|AfterBurst|ConfigMap|Watchers|Create.*Pod$$|Schedule' -benchtime 20x ./test/bench
	KONTIKI=$(CURDIR)/bin/kontiki IMAGES=$(CURDIR)/bin/images.tar $(GO) test -run '^$$' -bench 'ConfigMap|Watchers' -benchtime 20000x ./test/bench
	KONTIKI=$(CURDIR)/bin/kontiki IMAGES=$(CURDIR)/bin/images.tar $(GO) test -run '^$$' -bench 'Create.*Pod$$|Schedule' -benchtime 5000x ./test/bench
	KONTIKI=$(CURDIR)/bin/kontiki IMAGES=$(CURDIR)/bin/images.tar $(GO) test -run '^$$' -bench . -benchtime 5x ./test/bench/loss
	cd test/bench/logstore && $(GO) test -v -run DamagedLastEntry -bench . .
	cd test/bench/etcd && $(GO) test -run '^$$' -bench . .

# HOLLOW workers and PODS pods; docs/scale.md has results.
HOLLOW ?= 200
PODS ?= 2000
BENCH_SCALE := .
bench-scale: deps build ## run the benchmarks on a cluster with many simulated workers (HOLLOW=1000 PODS=5000 SHAPES=basic,spread BENCH_SCALE=Pods)
	KONTIKI=$(CURDIR)/bin/kontiki HOLLOW=$(HOLLOW) PODS=$(PODS) SHAPES=$(SHAPES) OBJECTS=$(OBJECTS) JOBPODS=$(JOBPODS) FLAPS=$(FLAPS) LIMIT=$(LIMIT) \
	  $(GO) test -run '^$$' -bench '$(BENCH_SCALE)' -benchtime 1x -timeout 120m -v ./test/bench/scale

# Each round runs SCHEDULES schedules of faults and ROUND simulated clusters, with consecutive seeds that begin at SEED or the time.
SCHEDULES := 20000
ROUND := 200
robustness: ## inject faults, in rounds, until interrupted; prints each round's seed (SEED=N starts there)
	@seed=$${SEED:-$$(date +%s)}; \
	$(GO) test -c -o bin/cluster.test ./cluster && $(GO) test -c -o bin/consensus.test ./cluster/consensus || exit 1; \
	while :; do \
	  echo "schedules $$seed to $$((seed + $(SCHEDULES) - 1)):"; \
	  (cd cluster/consensus && KONTIKI_SCHEDULES=$$seed-$$((seed + $(SCHEDULES) - 1)) ../../bin/consensus.test -test.run 'TestFaultSchedules$$' -test.v -test.timeout 60m) || exit 1; \
	  echo "seeds $$seed to $$((seed + $(ROUND) - 1)):"; \
	  (cd cluster && KONTIKI_SEEDS=$$seed-$$((seed + $(ROUND) - 1)) ../bin/cluster.test -test.run 'TestSimulatedFaults$$' -test.timeout 30m) || exit 1; \
	  echo "machines, seed $$seed:"; \
	  (cd cluster && KONTIKI_MACHINES=$$seed,60 ../bin/cluster.test -test.run 'TestHistoryOverMachines$$' -test.v -test.timeout 30m) || exit 1; \
	  echo "disks, KONTIKI_DISK_SEED=$$seed:"; \
	  (cd cluster && KONTIKI_DISK_SEED=$$seed ../bin/cluster.test -test.run 'TestDiskFaultsUnderHistories$$' -test.v -test.timeout 30m) || exit 1; \
	  seed=$$((seed + $(SCHEDULES))); \
	done

generate: ## regenerate committed code: protobuf, OpenAPI, the references of commands, roles and gRPC
	GOBIN=$(TOOLS) $(GO) install $(PROTOC_GEN_GO)
	GOBIN=$(TOOLS) $(GO) install $(PROTOC_GEN_GO_GRPC)
	PATH=$(TOOLS):$$PATH protoc -I proto --go_out=proto --go_opt=paths=source_relative \
	  --go-grpc_out=proto --go-grpc_opt=paths=source_relative $(PROTOS:proto/%=%)
	cd test/node && npm ci --silent && protoc --plugin=node_modules/.bin/protoc-gen-ts -I ../../proto -I . --ts_out=gen \
	  --ts_opt=client_grpc1,output_javascript,output_legacy_commonjs,long_type_string,ts_nocheck,eslint_disable,optimize_code_size \
	  kontiki/v1/objects.proto errors.proto && find gen -name '*.d.ts' -delete
	cd api/openapi && $(GO) run ./gen
	$(GO) run ./cmd/kontiki generate markdown > docs/commands.md
	$(GO) run ./cmd/kontiki generate roles > docs/reference-roles.md
	$(GO) run ./docs/gen
