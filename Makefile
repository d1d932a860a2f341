# make demo: trains, evaluates and draws on generated data.   make test: runs the tests.
# Both set up .venv and need only Python 3.11 or newer.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
DEMO := demo
# The CPU client's threads must outnumber callbacks that wait for each other (several forced devices).
export NPROC := 32
# Packages are installed without compiled modules; imported ones are compiled once, even if the variable is set.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test tests test-parity test-deploy test-sinks page test-page test-package docs test-gpu compile-only compile-only-tpu lint clean

$(VENV)/ready: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is required; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-compile -r requirements.txt
	touch $@

# PyTorch's CPU build, installed only by make test-parity.
$(VENV)/ready-parity: $(VENV)/ready requirements-parity.txt
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-compile torch==2.13.0
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-compile -r requirements-parity.txt
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-compile --no-deps timm==1.0.31  # without torchvision
	touch $@

# Otherwise, glibc returns memory after every step and requests it again: a third of the time for this small model.
demo: export MALLOC_ARENA_MAX := 1
demo: export MALLOC_MMAP_MAX_ := 0
demo: export MALLOC_TRIM_THRESHOLD_ := 100000000000
demo: export MALLOC_TOP_PAD_ := 67108864
demo: $(VENV)/ready
	rm -rf $(DEMO)
	$(RUN) -m yolos_jax.datasets.digits --out $(DEMO)/digits
	$(RUN) train.py --config configs/digits.py --workdir $(DEMO)/run --config.data.root=$(DEMO)/digits
	$(RUN) eval.py --checkpoint $(DEMO)/run
	$(RUN) predict.py $(DEMO)/digits/val2017 --limit 8 --checkpoint $(DEMO)/run --out $(DEMO)/images

# Compilation takes most of the tests' time. It takes half as long without XLA's slower optimisations and its newer code
# generator. Tests of behaviour use that; those against the reference's numbers compile as in a user's run. jax 0.12 does
# not have this flag and exits: leave out XLA_FLAGS there.
QUICK := XLA_FLAGS=--xla_cpu_use_fusion_emitters=false JAX_DISABLE_MOST_OPTIMIZATIONS=1
PYTEST := $(RUN) -m pytest -n 3 --dist loadfile --no-loadscope-reorder
test: lint tests
tests: $(VENV)/ready
	$(QUICK) $(PYTEST) -m "not numbers"
	$(PYTEST) -m numbers

test-parity: $(VENV)/ready-parity
	$(PYTEST) -m parity

# Environments of their own on top of .venv, each with the packages of a requirements file.
.venv-%/ready: $(VENV)/ready requirements-%.txt
	$(RUN) -m venv .venv-$*
	$(RUN) -c 'import site; print(site.getsitepackages()[0])' > .venv-$*/below.pth
	mv .venv-$*/below.pth $$(.venv-$*/bin/python -c 'import site; print(site.getsitepackages()[0])')/below.pth
	.venv-$*/bin/python -m pip install --quiet --disable-pip-version-check --no-compile -r requirements-$*.txt
	touch $@

# The requirements of exported programs and examples/, on top of .venv.
DEPLOY := .venv-deploy
test-deploy: $(DEPLOY)/ready
	$(QUICK) $(DEPLOY)/bin/python -m pytest tests/tools/exporting tests/examples

# wandb, MLflow and Trackio, on top of .venv.
SINKS := .venv-sinks
test-sinks: $(SINKS)/ready
	$(SINKS)/bin/python -m pytest tests/tasks/sinks

# The page's packages, in a separate environment on top of .venv, because gradio needs an older Pillow.
PAGE := .venv-page

# The model of make demo in the browser.
page: $(PAGE)/ready
	@test -d $(DEMO)/run || { echo "there is no $(DEMO)/run; run make demo first"; exit 1; }
	$(PAGE)/bin/python -m yolos_jax.programs.page --checkpoint $(DEMO)/run --pictures $(DEMO)/digits/val2017

# The headless browser is Debian's chromium, or the one in CHROMIUM. Screenshots go to YOLOS_SCREENSHOTS.
test-page: $(PAGE)/ready
	@command -v "$${CHROMIUM:-chromium}" > /dev/null \
	|| { test "$$(id -u)" = 0 && command -v apt-get > /dev/null \
	&& apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium > /dev/null; } \
	|| { echo "the page's test needs chromium: install it, or set CHROMIUM to a compatible browser"; exit 1; }
	$(PAGE)/bin/python -m pytest tests/tools/page

# Builds the source distribution and a wheel from it, and installs the wheel without an index on top of .venv.
PACKAGE := .venv-package
$(PACKAGE)/ready: $(VENV)/ready
	$(RUN) -m venv $(PACKAGE)
	$(PACKAGE)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile \
	build==1.6.1 setuptools==84.2.1 setuptools-scm==10.3.4
	touch $@

test-package: $(PACKAGE)/ready
	rm -rf dist $(PACKAGE)/fresh
	$(PACKAGE)/bin/python -m build --no-isolation --outdir dist . > /dev/null
	rm -rf yolos_jax.egg-info
	$(RUN) -m venv --without-pip $(PACKAGE)/fresh
	$(RUN) -c 'import site; print(site.getsitepackages()[0])' > $(PACKAGE)/below.pth
	mv $(PACKAGE)/below.pth $$($(PACKAGE)/fresh/bin/python -c 'import site; print(site.getsitepackages()[0])')/below.pth
	$(RUN) -m pip --python $(PACKAGE)/fresh/bin/python install --quiet --disable-pip-version-check --no-index --no-deps dist/*.whl
	cd $(PACKAGE)/fresh && bin/yolos-train --list && bin/yolos-train --config digits --help > /dev/null
	cd $(PACKAGE)/fresh && bin/python -c 'import yolos_jax; print(yolos_jax.__version__, yolos_jax.Detector)'

# The documentation with its reference, in site/. It reads the package without importing it, so it needs nothing else.
DOCS := .venv-docs
$(DOCS)/ready: requirements-docs.txt
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile -r requirements-docs.txt
	touch $@

docs: export NO_MKDOCS_2_WARNING := 1
docs: $(DOCS)/ready
	$(DOCS)/bin/mkdocs build --strict

# jax's CUDA packages (5 GB), and those for TPUs (0.7 GB).
.venv-gpu/ready: requirements.txt
	$(PYTHON) -m venv .venv-gpu
	.venv-gpu/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt 'jax[cuda13]==0.10.2'
	touch $@

.venv-tpu/ready: requirements.txt
	$(PYTHON) -m venv .venv-tpu
	.venv-tpu/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt 'jax[tpu]==0.10.2'
	touch $@

# Results on an NVIDIA GPU; compilation takes minutes. Tests that need several devices are skipped on one.
test-gpu: .venv-gpu/ready
	JAX_PLATFORMS=cuda,cpu JAX_DEFAULT_MATMUL_PRECISION=float32 XLA_PYTHON_CLIENT_PREALLOCATE=false \
	.venv-gpu/bin/python -m pytest tests/accelerators/test_on_a_gpu.py tests/training/test_trace.py

# Compiles without the device: for GPUs that files describe (TARGETS), and for TPUs (v4, v5e, v5p, v6e).
compile-only: .venv-gpu/ready
	.venv-gpu/bin/python -m benchmarks.compile_only --targets $(TARGETS) $(OPTIONS)

TPUS ?= v5e v6e v4
compile-only-tpu: .venv-tpu/ready
	.venv-tpu/bin/python -m benchmarks.compile_only --targets $(TPUS) $(OPTIONS)

# Style and types.
lint: $(VENV)/ready
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

clean:
	rm -rf $(VENV) .venv-gpu .venv-tpu $(DEPLOY) $(SINKS) $(PAGE) $(PACKAGE) $(DOCS) $(DEMO) dist site .cache
