# make demo: 64 pictures from the bundled model. make test: the whole suite. Both set everything up by themselves.
PYTHONS := python3.11 python3.12 python3.13 python3.14 python3
# The first that runs and is new enough; asked only when an environment is made. PYTHON=... names another.
PYTHON ?= $(shell for python in $(PYTHONS); do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
VENV := .venv
RUN := $(VENV)/bin

.DEFAULT_GOAL := demo
.PHONY: demo test test-gpu test-browser test-extras lint docs wheel bench torture clean

# The package and what the demo needs; rebuilt only when the list of dependencies changes.
$(VENV)/installed: pyproject.toml constraints.txt
	@test -x $(RUN)/python || test -n "$(PYTHON)" || \
		{ echo "no Python from 3.11 on is here (looked for $(PYTHONS)): install one, or name it, as make PYTHON=/path/to/python" >&2; exit 2; }
	test -x $(RUN)/python || $(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(RUN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[test]"
	touch $@

$(VENV)/installed-docs: $(VENV)/installed
	$(RUN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[docs]"
	touch $@

demo: $(VENV)/installed
	$(RUN)/digit sample --num 64 --out demo

test: $(VENV)/installed-test
	$(RUN)/python -m pytest -n 2 --dist loadfile

# What only a GPU can show; fails where there is none. The result goes into bench/results/test-gpu.json.
# Processes share the GPU: most of the time goes into compiling its kernels on processors.
test-gpu: $(VENV)/installed-test
	$(RUN)/python -m pytest tests_gpu -n 16

# The page of `digit demo` in a real Chromium (Debian: apt install chromium); fails in a sentence where there is
# none. An environment of its own: gradio takes no Pillow from 13 on.
$(VENV)-browser/installed: pyproject.toml constraints.txt
	test -x $(VENV)-browser/bin/python || $(PYTHON) -m venv $(VENV)-browser
	grep -v '^pillow' constraints.txt > $(VENV)-browser/constraints.txt
	$(VENV)-browser/bin/python -m pip install -q --disable-pip-version-check \
		-c $(VENV)-browser/constraints.txt -e ".[demo,test-browser]"
	touch $@

test-browser: $(VENV)-browser/installed
	$(VENV)-browser/bin/python -m pytest tests_browser -o addopts="-q -p no:cacheprovider --import-mode=importlib"

lint: $(VENV)/installed-test
	$(RUN)/ruff format --check .
	$(RUN)/ruff check .
	$(RUN)/pyright
	$(RUN)/pylint --disable=all --enable=duplicate-code --min-similarity-lines=8 --ignore-imports=y --ignore-docstrings=y --ignore-signatures=y --ignore-patterns=".*\.pyi" digit experiments bench

# The site in build/site; a link or a name that leads nowhere is an error.
docs: $(VENV)/installed-docs
	$(RUN)/python -m sphinx -q -W --keep-going -b html -c docs . build/site

# Wheel and source distribution, in dist; tests/test_release.py looks into both.
wheel: $(VENV)/installed-test
	rm -rf dist
	$(RUN)/python -m hatchling build -d dist

bench: $(VENV)/installed-test
	for script in bench/*.py; do $(RUN)/python $$script --smoke || exit 1; done

# What needs packages that nobody else needs: a model opened by diffusers.
test-extras: $(VENV)/installed-test
	$(RUN)/python -m pip install -q --disable-pip-version-check diffusers
	$(RUN)/python -m pytest tests_extras

# Processes killed, disks that refuse, hostile files: hours of CPU. The figures go into docs/reliability.md.
torture: $(VENV)/installed-test
	$(RUN)/python -m torture --results bench/results/reliability.json --out docs/reliability.md

clean:
	rm -rf $(VENV) $(VENV)-browser demo build dist
