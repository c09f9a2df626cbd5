# Every target first runs tools/setup_env.py: it chooses the environment, installs what is missing (a second call finds
# everything in place) and then becomes the command, run by that environment's Python. `make help` lists the targets.

PYTHON ?= python3
ARGS ?=

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup course notebooks lab test kills bench lint clean

# The one thing that a too old Python has to understand. Missing interpreters end here as well.
CHECK = "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { \
	echo "set-up: $(PYTHON) is no Python 3.10 or newer ($$("$(PYTHON)" -V 2>&1 | tail -n 1)):" \
	"install one and name it, for example PYTHON=python3.12 make course" >&2; exit 1; }
RUN = @$(CHECK); "$(PYTHON)" tools/setup_env.py

help:
	@echo "make course     set up, run the seven notebooks in order without a screen, print their results"
	@echo "make lab        set up, open JupyterLab at notebooks/"
	@echo "make test       set up, run the whole test suite"
	@echo "make kills      kill training runs at many moments, resume them, compare bit by bit (25 minutes)"
	@echo "make bench      measure speed and memory against MiniMind's way of doing it (about an hour)"
	@echo "make notebooks  run the notebooks and keep their fresh outputs in the files"
	@echo "make lint       check style and formatting of code and notebooks"
	@echo "make setup      set up, nothing more"
	@echo "make clean      remove caches; weights, corpora and the environment stay"
	@echo
	@echo "ARGS=… is handed on:              make test ARGS='-k tokenizer'"
	@echo "PYTHON=… chooses the interpreter: PYTHON=python3.12 make course"
	@echo "Linux without an NVIDIA card? torch's CPU build is 0.2 GB instead of 3:"
	@echo "  PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make course"

setup:
	$(RUN)

course:
	$(RUN) -m minimind_core.course $(ARGS)

notebooks:
	$(RUN) -m minimind_core.course --inplace $(ARGS)

lab:
	$(RUN) -m jupyterlab --allow-root --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/notebooks $(ARGS)

test:
	$(RUN) -m pytest $(ARGS)

kills:
	$(RUN) tests/kills.py $(ARGS)
	$(RUN) -m torch.distributed.run --standalone --nproc_per_node 2 tests/two_processes.py

bench:
	$(RUN) benchmarks/bench.py $(ARGS)

lint:
	$(RUN) -m ruff check . $(ARGS)
	$(RUN) -m ruff format --check .

clean:
	find . \( -name .git -o -name .venv -o -path ./out -o -path ./dataset \) -prune -o -type d \
		\( -name __pycache__ -o -name .pytest_cache -o -name .ruff_cache -o -name .hypothesis \
		-o -name .ipynb_checkpoints -o -name '*.egg-info' \) -prune -exec rm -rf {} +
