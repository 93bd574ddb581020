# From a fresh clone to a filled matrix. Needs Python >= 3.11, make and pip; no compiler.
#
#   make demo                      sets everything up, then 2x2 languages
#   make PYTHON=python3.12 grid    with another Python
#   make help                      all targets

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
LOG := $(VENV)/pip.log
INSTALL := $(BIN)/python -u -m pip install --progress-bar off -c constraints.txt -e '.[dev,encoder,gguf,lora,tensorboard,wandb]' > $(LOG) 2>&1

.DELETE_ON_ERROR:
.PHONY: help setup demo grid controls human-judgements optimizers paper-tiny real-model gpu-check test test-slurm nightly lint base clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 18

setup: $(READY) ## .venv with pinned packages; the other targets do it by themselves

demo: $(READY) ## 2x2 languages of the embedded world, about a minute on 2 cores
	$(BIN)/python launch.py -m sweeps=demo

grid: $(READY) ## the embedded 6x6 matrix
	$(BIN)/python launch.py -m sweeps=embedded

controls: $(READY) ## the embedded matrix with controls and references: 36 reward models, 258 scores
	$(BIN)/python launch.py -m sweeps=embedded +controls=true

human-judgements: $(READY) ## docs/human_judgements.md from DATA=FOLDER, which has the releases of people's judgements
	$(BIN)/python benchmarks/human_judgements.py "$(DATA)"

optimizers: $(READY) ## docs/optimizers.md: five optimizers, 3x3 languages, three seeds; an hour or two, goes on where it stopped
	$(BIN)/python benchmarks/optimizers.py

paper-tiny: $(READY) ## docs/paper_tiny.md: every preset of the paper at tiny scale, half an hour on an idle core
	$(BIN)/python benchmarks/paper.py

real-model: $(READY) ## docs/real_model.md: a pretrained model through every stage, with data of DATA=FOLDER; skipped without weights
	$(BIN)/python benchmarks/real_model.py "$(DATA)"

gpu-check: $(READY) ## docs/gpu.md: trainers on a GPU beside the CPU, speed and memory at real size; 8 minutes, goes on where it stopped
	$(BIN)/python benchmarks/gpu.py

test: $(READY) ## all tests but the nightly ones, in two processes; warnings are errors
	$(BIN)/python -m pytest -m 'not nightly' -n 2 --dist loadfile

test-slurm: $(READY) ## install SLURM and MariaDB (apt) if need be, start clusters of its own, test on them
	tests/slurm/install.sh --accounting
	$(BIN)/python -m pytest -m 'slurm and not nightly' tests/slurm

nightly: paper-tiny ## every preset of the paper at tiny scale, then tests that take long: killed and resumed grids
	$(BIN)/python -m pytest -m 'nightly and not slurm'
	$(BIN)/python -m pytest -m 'nightly and slurm' tests/slurm

lint: $(READY) ## ruff, its formatter and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

base: $(READY) ## pretrain the tiny base model again, half an hour on one core
	$(BIN)/python -m xling.models.pretrain

clean: ## remove .venv and caches; results in outputs/ stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Where the venv module cannot bring its own pip (Debian without python3-venv), the pip outside puts one in.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	"xling needs Python 3.11 or newer; $(PYTHON) is %d.%d. Type make PYTHON=python3.11 TARGET." % sys.version_info[:2])'
	@echo 'Setting up $(VENV), once: about 2 minutes and 2 GB (CPU build of torch).'
	@$(PYTHON) -m venv $(VENV) || { $(PYTHON) -m venv --clear --without-pip $(VENV) \
	&& $(PYTHON) -m pip --quiet --python $(BIN)/python install pip; }
	@(s=0; while sleep 5; do s=$$((s + 5)); echo "  $$s s: $$(sed -nE \
	's/^ *((Collecting|Downloading|Building wheels?|Installing) [^ ,]{1,60}( [a-z]+)?).*/\1/p' $(LOG) | tail -n 1)"; done) & \
	says=$$!; trap 'kill $$says' EXIT; \
	$(INSTALL) || { echo 'pip failed, perhaps for the network; once more in 10 s.'; sleep 10; $(INSTALL); } \
	|| { tail -n 20 $(LOG); exit 1; }
	@touch $@
