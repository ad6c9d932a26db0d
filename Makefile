PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: real-rows setup demo test test-quick test-slow test-ray test-harness lint types docs bench sanitize check-triton check-arm fuzz mutants clean

setup: $(READY)

EVERYTHING := .[test,lint,docs]

define install
	@command -v c++ >/dev/null 2>&1 || { echo "instsel needs a C++17 compiler (Debian: apt-get install g++)"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt scikit-build-core pybind11 ninja
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-build-isolation --editable '$(1)'
endef

$(READY): pyproject.toml constraints.txt CMakeLists.txt $(wildcard csrc/*/*)
	$(call install,$(EVERYTHING))
	touch $(READY)

# What the demo needs and no more, unless everything is there already.
DEMO_READY := $(if $(wildcard $(READY)),$(READY),$(VENV)/.ready-demo)

$(VENV)/.ready-demo: pyproject.toml constraints.txt CMakeLists.txt $(wildcard csrc/*/*)
	$(call install,.)
	touch $@

demo: $(DEMO_READY)
	$(BIN)/instsel demo

# A file of tests at a time in each of as many processes as there are processors: `make test TEST_PROCESSES=0` in one.
TEST_PROCESSES ?= logical
PARALLEL = --numprocesses $(TEST_PROCESSES) --maxprocesses 8 --dist loadfile --no-loadscope-reorder -p no:benchmark

test: $(READY)
	$(BIN)/python -m pytest $(PARALLEL)

# Without what starts processes or takes half a second: for the time between two edits. What it names wants a mark.
test-quick: $(READY)
	$(BIN)/python -m pytest $(PARALLEL) -m 'not slow and not long' --durations 5 --durations-min 1

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow

# Ray with nodes that come and go and actors that are killed: two minutes of what test-slow runs.
test-ray: $(READY)
	$(BIN)/python -m pytest -m slow tests/test_ray_soak.py

# Every Triton that a supported torch brings is put into build/tritons (up to 0.9 GB each) and compiles all kernels ahead of
# time for all architectures: without spills, and without a wait for each product.
check-triton: $(READY)
	$(BIN)/python -m pytest -m slow --numprocesses 2 --maxprocesses 2 --dist load -p no:benchmark tests/test_triton_versions.py

# The adapter for lm-evaluation-harness against the harness itself, which is installed for it.
test-harness: $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-build-isolation --editable '.[lm-eval]'
	$(BIN)/python -m pytest tests/test_lm_eval_adapter.py

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy instsel kernels

# The documentation as HTML in build/docs, from pages, docstrings and parsers; what is missing or leads nowhere is an error.
docs: $(READY)
	$(BIN)/python -m sphinx -W --keep-going -n -q -b html docs build/docs

# The micro-benchmarks of the kernels, each checked against a reference; the figures go to benchmarks/results.
MACHINE = $(shell $(BIN)/python benchmarks/environment.py)

bench: $(READY)
	mkdir -p benchmarks/results/$(MACHINE)
	$(BIN)/python -m pytest benchmarks --override-ini python_files='benchmark_*.py' -m '' \
		--benchmark-json benchmarks/results/$(MACHINE)/kernels_cpu.json --timeout 900

# The study of what selection is worth, hours on two cores, which goes on where it stopped: `make real-rows ROWS="alpaca.jsonl"`, files by
# their whole paths.
MODEL ?= google/gemma-3-270m
real-rows: $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt scipy peft
	cd benchmarks && ../$(BIN)/python -m real_rows --work ../build/real_rows --model "$(MODEL)" --rows $(ROWS) \
		--records results/real_rows.jsonl
	cd benchmarks && ../$(BIN)/python -m real_rows.page results/real_rows.jsonl ../docs/project/study.md \
		../docs/what_selection_is_worth.md ../README.md ../docs/what_to_run.md

# The C++ code under AddressSanitizer and UndefinedBehaviorSanitizer, compiled once for the checks of the algorithms by
# themselves and for the fuzzer; with `make --jobs 2` two files at a time.
SANITIZED := build/sanitized
SANITIZER_FLAGS := -std=c++17 -O1 -g1 -Wall -Wextra -fopenmp -fno-math-errno -fno-trapping-math -fsanitize=address,undefined \
	-fno-sanitize-recover=all -fno-omit-frame-pointer -Wno-uninitialized -Wno-maybe-uninitialized \
	-D_GLIBCXX_ASSERTIONS -fPIC -fvisibility=hidden
objects = $(patsubst %.cpp,$(SANITIZED)/%.o,$(1))
SOURCES := $(wildcard csrc/*/*.cpp)
ALGORITHMS := $(filter-out %binding.cpp,$(SOURCES))

$(SANITIZED)/%.o: %.cpp $(wildcard csrc/*/*.h tests/native/*.h) | $(READY)
	mkdir -p $(@D)
	$(CXX) $(SANITIZER_FLAGS) $(if $(filter %binding.cpp,$<),$$($(BIN)/python -m pybind11 --includes)) -Icsrc -c $< -o $@

build/check_kernels: $(call objects,$(ALGORITHMS) $(wildcard tests/native/*.cpp))
	$(CXX) $(SANITIZER_FLAGS) $^ -o $@

sanitize: build/check_kernels
	build/check_kernels

# The same checks compiled for Arm and run by an emulator, and whether the loops that take the time became NEON code.
ARM := aarch64-linux-gnu
ARM_HOT := float_linear_logsumexp float_tree_attention layer_operations online_logsumexp pair_logprobs

check-arm:
	@if ! command -v $(ARM)-g++ >/dev/null || ! command -v qemu-aarch64 >/dev/null; then \
		echo "check-arm was not run: it needs a compiler for Arm and an emulator" \
			"(Debian: apt-get install g++-aarch64-linux-gnu qemu-user)"; exit 0; \
	fi; set -e; mkdir -p build/arm; \
	for source in tests/native/*.cpp $(ALGORITHMS); do \
		$(ARM)-g++ -std=c++17 -O3 -Wall -Wextra -fopenmp -fno-math-errno -fno-trapping-math -Icsrc -c $$source \
			-o build/arm/$$(basename $$source .cpp).o; \
	done; \
	for name in $(ARM_HOT); do \
		$(ARM)-objdump -d build/arm/$$name.o | grep -qE 'fmla[[:space:]]+v[0-9]+\.4s' || { echo "$$name: no NEON"; exit 1; }; \
	done; \
	$(ARM)-g++ -fopenmp -static build/arm/*.o -o build/arm/check_kernels 2>/dev/null; \
	qemu-aarch64 build/arm/check_kernels

# The module with its binding, under the same sanitizers, called with right and wrong arguments for a minute; a longer run
# by hand: make fuzz FUZZ_SECONDS=3600 FUZZ_SEED=7. Faults made on purpose must be reported first.
FUZZ_SECONDS ?= 60
FUZZ_SEED ?= 0

build/fuzz/_native.so: $(call objects,$(SOURCES))
	mkdir -p $(@D)
	$(CXX) $(SANITIZER_FLAGS) -shared $^ -o $@

build/fuzz/control.so: tests/fuzz_control.cpp
	mkdir -p $(@D)
	$(CXX) $(SANITIZER_FLAGS) -fvisibility=default -shared $< -o $@

fuzz: build/fuzz/_native.so build/fuzz/control.so
	$(BIN)/python tests/fuzz_binding.py --prove --seconds $(FUZZ_SECONDS) --seed $(FUZZ_SEED)

# Faults put into a copy of the project on purpose, and which test sees each; one that none sees is an error. Half an hour
# on two cores; some of them: make mutants MUTANTS="--only window".
MUTANTS ?=
mutants: $(READY)
	cd tests && ../$(BIN)/python -m mutants $(MUTANTS)

clean:
	rm -rf build dist
