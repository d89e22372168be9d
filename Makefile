# Two commands matter: `make demo` and `make test`. Each sets up what it needs first.
# Needed beforehand: Python 3.11 and make; everything else comes from the package registry.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
UV_VERSION := 0.13.9
UV := .uv/bin/uv
RUN := .venv/bin
export UV_PYTHON_DOWNLOADS := never
export UV_LINK_MODE := copy
# Hospital networks often have a certificate authority of their own.
export UV_SYSTEM_CERTS := 1
export OMP_WAIT_POLICY := PASSIVE

.PHONY: demo test test-cluster lint down clean requirements requirements-images setup images base-image test-images

demo: .venv/laptop ## a whole season of four nights on this machine; DATA=<folder> uses your own images
	$(RUN)/bc demo $(if $(DATA),--data "$(DATA)")

test: lint ## every test, through real servers
	$(RUN)/pytest

test-cluster: .venv/dev ## a night in pods on the real cluster of KUBECONFIG (see tests/cluster)
	@test -n "$$KUBECONFIG" || { echo "KUBECONFIG must name the cluster: see 'The same night as a test' in README.md"; exit 1; }
	BC_TEST_CLUSTER=1 $(RUN)/pytest tests/cluster

lint: .venv/dev ## formatting, lint and types
	$(RUN)/ruff format --check .
	$(RUN)/ruff check .
	$(RUN)/mypy

setup: .venv/dev ## install everything, run nothing

down: ## stop what `make demo` started, whatever became of it
	@if [ -x $(RUN)/bc ]; then $(RUN)/bc down; fi

clean: down ## forget the environment and all embedded data
	rm -rf .venv .uv .bc

images: ## the container images, with docker, podman or buildah; what can be said: see docker/build.sh
	docker/build.sh $(IMAGES)

base-image: ## a base for them from Debian's packages, for networks without an image registry; as root
	docker/base-image.sh

test-images: .venv/dev ## build and run every image; as root, with buildah and debootstrap; needs 35 GB for a while
	BC_BUILD_IMAGES="airflow airflow-with-trainer mlflow trainer" $(RUN)/pytest tests/docker

requirements: $(UV) ## pin every package anew (then run the tests)
	$(UV) pip compile pyproject.toml --upgrade --extra laptop $(COMPILE) -o requirements.txt
	$(UV) pip compile pyproject.toml --upgrade --extra laptop --extra dev -c requirements.txt $(COMPILE) -o requirements-dev.txt
	$(MAKE) requirements-images

requirements-images: $(UV) ## the images' packages, at the versions of requirements.txt where it has them
	$(UV) pip compile pyproject.toml --upgrade --extra scheduler --group airflow-image -c requirements.txt $(COMPILE) -o docker/airflow/requirements.txt
	$(UV) pip compile pyproject.toml --upgrade --extra trainer -c requirements.txt --no-emit-package triton $(COMPILE) -o docker/trainer/requirements.txt
	$(UV) pip compile --upgrade --group mlflow-image -c requirements.txt $(COMPILE) -o docker/mlflow/requirements.txt
	$(UV) pip compile --upgrade --group image-builder -c requirements.txt $(COMPILE) -o docker/builder-requirements.txt

COMPILE := --quiet --python-version 3.11 --generate-hashes --no-emit-index-url --no-header

.venv/laptop: requirements.txt pyproject.toml .venv/bin/python
	$(UV) pip install --quiet --python .venv -r requirements.txt
	$(UV) pip install --quiet --python .venv --no-deps --editable .
	@touch $@

.venv/dev: requirements-dev.txt .venv/laptop
	$(UV) pip install --quiet --python .venv -r requirements-dev.txt
	@touch $@

.venv/bin/python: | $(UV)
	@echo "Installing into .venv (about 6 GB with PyTorch; minutes the first time) ..."
	$(UV) venv --quiet --python "$(PYTHON)" .venv

$(UV):
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' \
		|| { echo "Python 3.11 or 3.12 is needed: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	@"$(PYTHON)" -m venv .uv \
		|| { rm -rf .uv; echo "This Python has no venv; on Debian: apt-get install python3.11-venv"; exit 1; }
	.uv/bin/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
