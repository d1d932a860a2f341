# make demo: trains, evaluates and draws on generated data.   make test: runs the tests.
# Both set up .venv and need only Python 3.11 or newer.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
DEMO := demo
# With several simulated CPU devices, callbacks wait for each other, so the CPU client needs more threads than there are
# callbacks.
export NPROC := 32
# Packages are installed without bytecode; unsetting this variable lets Python compile each imported module once.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test tests test-parity test-deploy test-sinks page test-page test-package docs test-gpu compile-only compile-only-tpu lint clean

$(VENV)/ready: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is required; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-compile -r requirements.txt
	touch $@

# The CPU build of PyTorch; only make test-parity installs it.
$(VENV)/ready-parity: $(VENV)/ready requirements-parity.txt
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-compile torch==2.13.0
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-compile -r requirements-parity.txt
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-compile --no-deps timm==1.0.31  # without torchvision
	touch $@

# Without these settings, glibc returns memory to the system after every step, which takes a third of the training time.
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

# Most of the test time is compilation, which is twice as fast without the slower optimisations and the newer code
# generator of XLA. Tests that compare with reference values compile with the default settings. jax 0.12 does not have
# this flag and exits with an error; remove XLA_FLAGS for it.
QUICK := XLA_FLAGS=--xla_cpu_use_fusion_emitters=false JAX_DISABLE_MOST_OPTIMIZATIONS=1
PYTEST := $(RUN) -m pytest -n 3 --dist loadfile --no-loadscope-reorder
test: lint tests
tests: $(VENV)/ready
	$(QUICK) $(PYTEST) -m "not numbers"
	$(PYTEST) -m numbers

test-parity: $(VENV)/ready-parity
	$(PYTEST) -m parity

# Separate environments on top of .venv, each with the packages of one requirements file.
.venv-%/ready: $(VENV)/ready requirements-%.txt
	$(RUN) -m venv .venv-$*
	$(RUN) -c 'import site; print(site.getsitepackages()[0])' > .venv-$*/below.pth
	mv .venv-$*/below.pth $$(.venv-$*/bin/python -c 'import site; print(site.getsitepackages()[0])')/below.pth
	.venv-$*/bin/python -m pip install --quiet --disable-pip-version-check --no-compile -r requirements-$*.txt
	touch $@

# The packages needed for exported programs and examples/.
DEPLOY := .venv-deploy
test-deploy: $(DEPLOY)/ready
	$(QUICK) $(DEPLOY)/bin/python -m pytest tests/tools/exporting tests/examples

# wandb, MLflow and Trackio.
SINKS := .venv-sinks
test-sinks: $(SINKS)/ready
	$(SINKS)/bin/python -m pytest tests/tasks/sinks

# The packages for the page; gradio needs an older Pillow.
PAGE := .venv-page

# Opens the page with the model from make demo.
page: $(PAGE)/ready
	@test -d $(DEMO)/run || { echo "$(DEMO)/run does not exist; run make demo first"; exit 1; }
	$(PAGE)/bin/python -m yolos_jax.programs.page --checkpoint $(DEMO)/run --pictures $(DEMO)/digits/val2017

# Uses the headless browser in CHROMIUM, or Debian's chromium. Screenshots are written to YOLOS_SCREENSHOTS.
test-page: $(PAGE)/ready
	@command -v "$${CHROMIUM:-chromium}" > /dev/null \
	|| { test "$$(id -u)" = 0 && command -v apt-get > /dev/null \
	&& apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium > /dev/null; } \
	|| { echo "the page test needs chromium: install it, or set CHROMIUM to a compatible browser"; exit 1; }
	$(PAGE)/bin/python -m pytest tests/tools/page

# Builds the source distribution, builds a wheel from it, and installs the wheel on top of .venv without using an index.
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

# Builds the documentation and API reference in site/. The package is parsed, not imported, so its dependencies are not
# needed.
DOCS := .venv-docs
$(DOCS)/ready: requirements-docs.txt
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile -r requirements-docs.txt
	touch $@

docs: export NO_MKDOCS_2_WARNING := 1
docs: $(DOCS)/ready
	$(DOCS)/bin/mkdocs build --strict

# The jax packages for CUDA (5 GB) and for TPUs (0.7 GB).
.venv-gpu/ready: requirements.txt
	$(PYTHON) -m venv .venv-gpu
	.venv-gpu/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt 'jax[cuda13]==0.10.2'
	touch $@

.venv-tpu/ready: requirements.txt
	$(PYTHON) -m venv .venv-tpu
	.venv-tpu/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt 'jax[tpu]==0.10.2'
	touch $@

# Runs numerical checks on an NVIDIA GPU; compilation takes minutes. With one GPU, tests that need several are skipped.
test-gpu: .venv-gpu/ready
	JAX_PLATFORMS=cuda,cpu JAX_DEFAULT_MATMUL_PRECISION=float32 XLA_PYTHON_CLIENT_PREALLOCATE=false \
	.venv-gpu/bin/python -m pytest tests/accelerators/test_on_a_gpu.py tests/training/test_trace.py

# Compiles for absent devices: GPUs described by files (TARGETS), and TPUs (v4, v5e, v5p, v6e).
compile-only: .venv-gpu/ready
	.venv-gpu/bin/python -m benchmarks.compile_only --targets $(TARGETS) $(OPTIONS)

TPUS ?= v5e v6e v4
compile-only-tpu: .venv-tpu/ready
	.venv-tpu/bin/python -m benchmarks.compile_only --targets $(TPUS) $(OPTIONS)

# Checks style and types.
lint: $(VENV)/ready
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

clean:
	rm -rf $(VENV) .venv-gpu .venv-tpu $(DEPLOY) $(SINKS) $(PAGE) $(PACKAGE) $(DOCS) $(DEMO) dist site .cache
