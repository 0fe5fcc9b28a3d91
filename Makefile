# Two commands do all the set-up: `make book` and `make test`. `make help` lists the rest.
PYTHON ?= python3
PORT ?= 8000
BIN = .venv/bin
.DEFAULT_GOAL = help
.PHONY: help setup book site test lint unit repo engine nbval hub browser notebooks bench bench-quality address serve clean

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 16

setup: .venv/ready  ## Make .venv with the pinned packages (done by every target that needs it)

.venv/ready: requirements.txt pyproject.toml
	@echo "Setting up .venv from requirements.txt (about 3 GB; two to five minutes the first time)"
	@test -d .venv || $(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch .venv/ready

# What only speed needs, for the benchmark and the tests of the optional engine: beside .venv, not in it.
.venv/bench/ready: bench/requirements.txt .venv/ready
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --upgrade --target .venv/bench -r bench/requirements.txt
	@touch .venv/bench/ready

book: setup  ## Execute every chapter and build the site into _build/html
	@$(BIN)/python tools/build.py --execute

site: setup  ## Build the site from the saved outputs, in seconds
	@$(BIN)/python tools/build.py

test: setup .venv/bench/ready  ## Run every test: lint, unit, repo, engine, nbval, hub, browser
	@$(BIN)/python tools/test.py

engine: .venv/bench/ready
lint unit repo engine nbval hub browser: setup  ## (each) Run one kind of test
	@$(BIN)/python tools/test.py $@

notebooks: setup  ## Re-execute the chapters and save them, normalised (ONLY=04 for one)
	@$(BIN)/python tools/notebooks.py $(ONLY)

bench: setup .venv/bench/ready  ## Measure speed beside sentence-transformers and write the table of the speed page (DATA=folder)
	@PYTHONPATH=.venv/bench $(BIN)/python bench/speed.py $(if $(DATA),--data $(DATA))
	@$(BIN)/python bench/memory.py

bench-quality: setup  ## Measure every embedded model and write the table of the model cards
	@$(BIN)/python bench/quality.py

address: setup  ## Set the repository's public address: make address URL=https://github.com/OWNER/NAME
	@$(BIN)/python tools/address.py "$(URL)"

serve: site  ## Serve the site on this machine alone (PORT=8000)
	@$(BIN)/python -m http.server --bind 127.0.0.1 --directory _build/html $(PORT)

clean:  ## Remove what was built, but not .venv
	rm -rf _build assets/vendor build *.egg-info
