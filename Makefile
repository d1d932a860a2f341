# make demo: train, evaluate and draw on data that is made on the spot.   make test: the tests.
# Both set up .venv by themselves; all they need is Python 3.11 or newer.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
DEMO := demo
# The CPU client's threads must outnumber callbacks that wait for each other (several forced devices).
export NPROC := 32
# Packages are installed without compiled modules. What is imported is compiled once, wherever the variable forbids it.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test tests test-parity test-deploy test-sinks page test-page test-package docs test-gpu compile-only compile-only-tpu lint clean

$(VENV)/ready: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-compile -r requirements.txt
	touch $@

# PyTorch's CPU build for the comparisons; only make test-parity installs it.
$(VENV)/ready-parity: $(VENV)/ready requirements-parity.txt
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-compile torch==2.13.0
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-compile -r requirements-parity.txt
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-compile --no-deps timm==1.0.31  # without torchvision
	touch $@

# glibc otherwise gives memory back after every step and takes it again: a third of the time of so small a model.
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

# Compiling takes most of the tests' time. XLA halves it without its slower optimisations and its newer code generator.
# Tests of what programs do take that; those of the reference's numbers compile as a user's run does. jax 0.12 knows no
# such flag and ends at once: leave XLA_FLAGS out there.
QUICK := XLA_FLAGS=--xla_cpu_use_fusion_emitters=false JAX_DISABLE_MOST_OPTIMIZATIONS=1
PYTEST := $(RUN) -m pytest -n 3 --dist loadfile --no-loadscope-reorder
test: lint tests
tests: $(VENV)/ready
	$(QUICK) $(PYTEST) -m "not numbers"
	$(PYTEST) -m numbers

test-parity: $(VENV)/ready-parity
	$(PYTEST) -m parity

# What exported programs and examples/ need, on top of .venv.
DEPLOY := .venv-deploy
$(DEPLOY)/ready: $(VENV)/ready requirements-deploy.txt
	$(RUN) -m venv $(DEPLOY)
	$(RUN) -c 'import site; print(site.getsitepackages()[0])' > $(DEPLOY)/below.pth
	mv $(DEPLOY)/below.pth $$($(DEPLOY)/bin/python -c 'import site; print(site.getsitepackages()[0])')/below.pth
	$(DEPLOY)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile -r requirements-deploy.txt
	touch $@

test-deploy: $(DEPLOY)/ready
	$(QUICK) $(DEPLOY)/bin/python -m pytest tests/tools/exporting tests/examples

# wandb, MLflow and Trackio, on top of .venv.
SINKS := .venv-sinks
$(SINKS)/ready: $(VENV)/ready requirements-sinks.txt
	$(RUN) -m venv $(SINKS)
	$(RUN) -c 'import site; print(site.getsitepackages()[0])' > $(SINKS)/below.pth
	mv $(SINKS)/below.pth $$($(SINKS)/bin/python -c 'import site; print(site.getsitepackages()[0])')/below.pth
	$(SINKS)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile -r requirements-sinks.txt
	touch $@

test-sinks: $(SINKS)/ready
	$(SINKS)/bin/python -m pytest tests/tasks/sinks

# The page's packages lie on top of .venv, in an environment of their own: gradio needs an older Pillow.
PAGE := .venv-page
$(PAGE)/ready: $(VENV)/ready requirements-page.txt
	$(RUN) -m venv $(PAGE)
	$(RUN) -c 'import site; print(site.getsitepackages()[0])' > $(PAGE)/below.pth
	mv $(PAGE)/below.pth $$($(PAGE)/bin/python -c 'import site; print(site.getsitepackages()[0])')/below.pth
	$(PAGE)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile -r requirements-page.txt
	touch $@

# What make demo has trained, in the browser.
page: $(PAGE)/ready
	@test -d $(DEMO)/run || { echo "there is no $(DEMO)/run; run make demo first"; exit 1; }
	$(PAGE)/bin/python -m yolos_jax.programs.page --checkpoint $(DEMO)/run --pictures $(DEMO)/digits/val2017

# A headless browser is Debian's; elsewhere, CHROMIUM names one. Screenshots go to YOLOS_SCREENSHOTS.
test-page: $(PAGE)/ready
	@command -v "$${CHROMIUM:-chromium}" > /dev/null \
	|| { test "$$(id -u)" = 0 && command -v apt-get > /dev/null \
	&& apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium > /dev/null; } \
	|| { echo "the page's test needs chromium: install it, or set CHROMIUM to a browser of its kind"; exit 1; }
	$(PAGE)/bin/python -m pytest tests/tools/page

# The source distribution, the wheel made of it, and the wheel in an environment without an index on top of .venv.
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

# The documentation with its reference, in site/. It reads the package without importing it, so that this is all it needs.
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

# Numbers on an NVIDIA GPU; compiling takes minutes. What needs several devices is skipped where they are not there.
test-gpu: .venv-gpu/ready
	JAX_PLATFORMS=cuda,cpu JAX_DEFAULT_MATMUL_PRECISION=float32 XLA_PYTHON_CLIENT_PREALLOCATE=false \
	.venv-gpu/bin/python -m pytest tests/accelerators/test_on_a_gpu.py tests/training/test_trace.py

# Compiles for GPUs that need not be there, which files describe (TARGETS), and for TPUs (v4, v5e, v5p, v6e).
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
