# Clusters for the desk and for the tests. Included by the Makefile.

PYTHON ?= python3
TESTBED = $(PYTHON) hack/testbed
NODE ?= kwok
KIND ?= kind
KIND_NAME ?= paramedic
KIND_FOLDER = .cluster-kind

.PHONY: cluster-up cluster-down cluster-status cluster-install kind-up kind-down

cluster-up: $(STAMP) ## Start a real control plane in the background, its node played or, with NODE=real, real (kubeconfig: .cluster/kubeconfig)
	@$(TESTBED) up --node $(NODE)

cluster-down: ## Stop that control plane and remove .cluster
	@$(TESTBED) down

cluster-status: ## Tell whether that control plane runs
	@$(TESTBED) status

cluster-install: $(STAMP) ## Run Paramedic on the real node of that cluster, from an image of this work tree
	@$(BIN)/python hack/images paramedic --folder .cluster
	@$(TESTBED) load .cluster/paramedic.tar
	@rm .cluster/paramedic.tar
	@settings="$$($(TESTBED) env)" && eval "$$settings" && kubectl apply -f crds && kubectl apply -k hack/images/paramedic && \
		kubectl -n paramedic-system rollout restart deployment/paramedic && \
		kubectl -n paramedic-system rollout status deployment/paramedic --timeout=60s

kind-up: ## Start a kind cluster instead, for those who have Docker (kubeconfig: .cluster-kind/kubeconfig)
	@command -v $(KIND) >/dev/null || { echo "kind is missing: install it from https://kind.sigs.k8s.io, or use 'make cluster-up', which needs no Docker" >&2; exit 1; }
	@command -v docker >/dev/null || { echo "docker is missing: kind needs Docker; 'make cluster-up' does not" >&2; exit 1; }
	@docker info >/dev/null 2>&1 || { echo "docker does not answer: start its daemon (or check your rights), or use 'make cluster-up', which needs no Docker" >&2; exit 1; }
	@mkdir -p $(KIND_FOLDER)
	$(KIND) create cluster --name $(KIND_NAME) --config hack/kind.yaml --kubeconfig $(KIND_FOLDER)/kubeconfig --wait 120s
	@echo 'export KUBECONFIG=$$PWD/$(KIND_FOLDER)/kubeconfig'

kind-down: ## Remove the kind cluster
	@command -v $(KIND) >/dev/null || { echo "kind is missing, so there is no kind cluster to remove" >&2; exit 1; }
	$(KIND) delete cluster --name $(KIND_NAME)
	@rm -rf $(KIND_FOLDER)
