# Two commands are for everyone: `make demo` and `make test`. Each sets itself up.
VENV := .venv
BIN := $(VENV)/bin
PYTEST_FLAGS ?=
TESTS := tests --ignore=tests/node --ignore=tests/packaging --ignore=tests/image

.PHONY: help demo test lint unit packaging-test node-test bench bench-quick test-lowest wheel-test image image-test deb \
	docs session format clean

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 22

$(VENV)/.ready: pyproject.toml constraints.txt .ci/venv
	@echo "setting up $(VENV) (once, about a minute)"
	@.ci/venv $(VENV) dev

demo: $(VENV)/.ready ## walk an agent through a registry switch, from a file and from an API double; no root, no cluster
	@$(BIN)/python demo/walk.py

test: lint unit ## lint, types, architecture and all tests that need no root

lint: $(VENV)/.ready ## formatting, lint, types, architecture
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

unit: $(VENV)/.ready ## the tests of `make test`, with coverage
	$(BIN)/python -m pytest $(TESTS) --cov --cov-report=term $(PYTEST_FLAGS)

node-test: $(VENV)/.ready ## real containerd 1.6, 1.7 and 2.1 pulling from real registries, the package on nodes; needs root
	.ci/node-packages
	rm -f dist/*.deb
	$(MAKE) deb
	@$(BIN)/python -c 'import grpc' 2>/dev/null || PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install -q -e '.[dev,node]'
	$(BIN)/python -m pytest tests/node --forbid-skips $(PYTEST_FLAGS)

packaging-test: $(VENV)/.ready ## the Kubernetes manifests: schemas, roles, policies, alerts; needs no root
	.ci/kubectl $(BIN)
	@$(BIN)/python -c 'import cel_expr_python' 2>/dev/null || PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install -q -e '.[dev,packaging]'
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest tests/packaging --forbid-skips $(PYTEST_FLAGS)

bench: $(VENV)/.ready ## figures beside their floors (docs/performance.md)
	$(BIN)/python -m tests.bench

bench-quick: $(VENV)/.ready ## the same with few repetitions
	$(BIN)/python -m tests.bench --quick

test-lowest: $(VENV)/.ready ## the tests against the lowest dependencies that pyproject.toml allows
	$(BIN)/python .ci/lowest > .venv-lowest.txt
	PIP_CONSTRAINT=.venv-lowest.txt .ci/venv .venv-lowest dev
	.venv-lowest/bin/python -m pytest $(TESTS) -q $(PYTEST_FLAGS)

wheel-test: $(VENV)/.ready ## build the wheel, install it alone and use it
	rm -rf dist .venv-wheel
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip wheel -q --no-deps -w dist .
	python3 -m venv .venv-wheel || $(BIN)/python -m venv .venv-wheel
	PIP_CONSTRAINT=constraints.txt .venv-wheel/bin/python -m pip install -q dist/*.whl
	rm -rf build/wheel-test && cd / && $(CURDIR)/.venv-wheel/bin/registry-agent render $(CURDIR)/demo/direct.yaml --out $(CURDIR)/build/wheel-test
	.venv-wheel/bin/registry-agent version

image: ## build the container image into build/image/registry-agent.tar, without a Docker engine; needs root
	.ci/packages buildah gpg mmdebstrap
	packaging/image/build

image-test: $(VENV)/.ready image ## the image in a real containerd, with the rights of a DaemonSet's pod; needs root
	.ci/node-packages
	@$(BIN)/python -c 'import grpc' 2>/dev/null || PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install -q -e '.[dev,node]'
	$(BIN)/python -m pytest tests/image --forbid-skips $(PYTEST_FLAGS)

deb: $(VENV)/.ready ## build the Debian package for Debian 12 and newer into dist/; needs dpkg and binutils
	SOURCE_DATE_EPOCH=$${SOURCE_DATE_EPOCH:-$$(git log -1 --format=%ct)} PIP_CONSTRAINT=constraints.txt $(BIN)/python packaging/deb/build.py

docs: $(VENV)/.ready ## write the generated parts of docs/
	$(BIN)/python -m tests.docs.settings_reference > docs/settings.md

session: $(VENV)/.ready ## write docs/session.md anew from a real session on a node; needs root, and `make deb` before
	$(BIN)/python -m tests.node.session

format: $(VENV)/.ready ## format the code
	$(BIN)/ruff format --quiet .
	$(BIN)/ruff check --quiet --fix .

clean: ## remove everything that is made
	rm -rf .venv .venv-lowest .venv-lowest.txt .venv-wheel build dist demo/node demo/node2 .coverage* .hypothesis .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
