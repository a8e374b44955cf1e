# Kontiki's commands. `make run` and `make test` are all that a newcomer needs; both install what is missing (deps).
SHELL := /bin/bash
.DEFAULT_GOAL := build

PROTOC_GEN_GO      := google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.11
PROTOC_GEN_GO_GRPC := google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2
TOOLS := $(CURDIR)/.tools
PROTOS := $(shell find proto -name '*.proto')

.PHONY: generate
generate: ## regenerate committed code (protobuf)
	GOBIN=$(TOOLS) go install $(PROTOC_GEN_GO)
	GOBIN=$(TOOLS) go install $(PROTOC_GEN_GO_GRPC)
	PATH=$(TOOLS):$$PATH protoc -I proto --go_out=proto --go_opt=paths=source_relative \
	  --go-grpc_out=proto --go-grpc_opt=paths=source_relative $(PROTOS:proto/%=%)
