# make build   the static binary
# make test    everything: lint, unit and property tests, and the node on real FRR (needs root; installs what is missing)
# make demo    the main job, step by step (needs root)
# make lab     a node on real FRR; with EVERY=1 also the tests that take too long for `make test`
# make evpn    VNIs between two nodes on real FRR; EVERY=1 as for lab
# make delta   any change of a running configuration against a start with the new one, on real daemons [PAIRS=n] [SEED=n]
# make matrix  whatever is killed or stopped, in either namespace: packets sent and lost [REPEAT=n] [NETNS=perouter|host] [CELL=words]
# make upgrade what a restart with another program costs, and the way back: packets sent and lost FROM=commit [NETNS=perouter|host]
# make chaos   random kills and stops under traffic [KILLS=n] [SECONDS=n] [SEED=n] [NETNS=host] [BFD=off] [DELETIONS=n]
#              [ROUTES=n] [SERVICES=n] [MTU=bytes] [INTERLEAF=on]
# make bench   comparisons: start-up and recovery (watchfrr; idle and busy), the devices of many VNIs (ip -batch), changes (frr-reload.py) [VNIS=n,…] [VRFS=n,…]
# make page    the status page in a browser: screenshots and checks, below _out/page
# make alerts  the alert rules and the metrics, by promtool
# make extension        the Talos extension from Debian's packages, below _out/ [SUITE=forky]
# make extension-check  whether Talos and its tools accept it, and whether it runs as they run it
# make frr              the extension by bldr: needs Docker and registries [REGISTRY= USERNAME= TAG= PUSH= PLATFORM=]
# make deny    licences, advisories and sources of the dependencies
#
# FRR=8.4|10.3|10.7 chooses the FRR of demo, matrix, upgrade, chaos and bench; SUITES the Debian suites whose FRR `make test` uses.

TARGET  ?= $(shell rustc -vV | sed -n 's/^host: //p')
FRR     ?= 10.3
REPEAT  ?= 1
KILLS   ?= 50
VNIS    ?= 1,100,500,1000
VRFS    ?= 10,100,500,1000
PAIRS   ?= 60
SUITES  ?= trixie forky bookworm
SUITE   := $(or $(if $(filter 8.4,$(FRR)),bookworm),$(if $(filter 10.3,$(FRR)),trixie),$(if $(filter 10.7,$(FRR)),forky),$(error FRR=$(FRR): 8.4, 10.3 or 10.7))

# Static, so that it runs in a tree of any age. With --target the flag does not apply to build scripts.
# The result does not depend on the directory of the build.
CARGO_HOME ?= $(HOME)/.cargo
# A make that another make started has the flags already; with a flag twice, everything would be built again.
ifeq (,$(findstring crt-static,$(RUSTFLAGS)))
export RUSTFLAGS := -C target-feature=+crt-static --remap-path-prefix=$(CURDIR)=. --remap-path-prefix=$(CARGO_HOME)=/cargo $(RUSTFLAGS)
# lld, which is rustc's own on x86-64 from 1.90 on, merges identical functions and packs relocations.
ifneq (,$(findstring x86_64,$(TARGET)))
RUSTFLAGS += -C link-arg=-Wl,--icf=all -C link-arg=-Wl,--pack-dyn-relocs=relr
endif
endif
# Not for tests, which unwind.
ifneq (,$(findstring x86_64,$(TARGET)))
RELEASE := -C link-arg=-Wl,-T,$(CURDIR)/no-unwinding.ld -C link-arg=-Wl,--no-eh-frame-hdr
endif
CARGO   := cargo
ARGS    := --locked --target $(TARGET)
BIN     := $(or $(CARGO_TARGET_DIR),target)/$(TARGET)/release/frr-supervisor
LAB     := LAB_SUPERVISOR=$(abspath $(BIN)) tests/lab/run
STEADY  := LAB_SUPERVISOR=$(abspath $(BIN)) tests/lab/steadily

# The executable of some tests: built with cargo's full output, then its path from a second call.
tests = $(CARGO) test $(ARGS) --features lab,extension --no-run $(1)
program = $$($(call tests,$(1)) >&2 && $(call tests,$(1)) 2>&1 | sed -n 's/^ *Executable.*(\(.*\))$$/\1/p')

EXTENSION := $(abspath _out/frr)

# As in siderolabs/extensions.
REGISTRY ?= ghcr.io
USERNAME ?= frr-supervisor
TAG      ?= $(shell git describe --tag --always --dirty)
PLATFORM ?= linux/amd64,linux/arm64
PUSH     ?= false

.PHONY: build test checks trees lint unit kernel lab lab-nat lab-plain $(SUITES:%=lab-%) evpn $(SUITES:%=evpn-%) delta $(SUITES:%=delta-%) size demo matrix upgrade chaos bench page alerts extension extension-check frr deny clean

build:
	$(CARGO) rustc $(ARGS) --release --bin frr-supervisor -- $(RELEASE)
	@ls -l $(BIN)

test:
	tests/lab/setup uml qemu extension
	@$(MAKE) -j3 -Otarget trees size checks
	@$(MAKE) -j2 -Otarget lab evpn delta kernel extension-check TALOS=namespace_of_its_own

# The trees and kernels, which take time to make.
trees:
	@set -e; for suite in $(SUITES); do tests/lab/tree $$suite; done; for kernel in uml qemu; do tests/lab/kernel $$kernel; done

checks:
	@$(MAKE) lint
	@$(MAKE) unit
	@$(call tests,$(patsubst %,--test %,node evpn delta extension talos))

lint:
	tests/words
	tests/rooms
	$(CARGO) fmt --check
	$(CARGO) clippy $(ARGS) --all-targets --features lab,extension -- -D warnings

unit:
	$(CARGO) test $(ARGS) --features lab,extension --lib --bins

# The unit tests that need a kernel with nf_tables.
kernel:
	@set -e; program="$(call program,--lib)"; test -n "$$program"; \
	LAB_TIMEOUT=1800 $(LAB) --kernel nft $$program --ignored --test-threads=1 nft::

# 4 MB, as for the image; a node's initramfs is in memory.
size: build
	@test $$(stat -c %s $(BIN)) -le 4000000 || { echo "$(BIN) is larger than 4 MB"; exit 1; }

# Tests that hardly depend on FRR's version run with one suite only, the first or (if there is one) the second. Tests that take
# long and resemble another test run only with EVERY=1.
# FRR 8.4 ends its BFD sessions with bgpd, so tests that allow no loss do not run with it. Its zebra, as the speaker's in the host's
# namespace, sometimes misses addresses of the veth pair.
FIRST_ONLY  = a_busy_leaf bad_configurations nics_are_found nic_that_carries stale_namespace conflicting_unmanaged log_can_be_json \
              every_fault clients_of_any the_command_and the_metrics another_namespace a_broken_template an_instance_that lost_when_daemons_are_killed killed_at_any conflicting_writer rebuild_token altered deleted_namespace nic_that_returns dead_daemon no_one_reads what_others_put
SECOND_ONLY = leave_by_another_leaf no_link_to_metallb port_that_flaps does_not_affect typed_into withdraw_shuts_down services_stay no_service_is_retained lost_in_the_hosts container_is_killed only_bgpd_is_killed a_leaf_may host_mode ipv4_over full_run may_not_announce shortage_of_file wrong_with_one_nic peers_cannot_forge only_a_regular_file a_stop_overrides crashes_a_daemon
EVERY_ONLY  = in_maintenance a_leaf_may_be_gobgp altered_in_the_hosts same_link_local repaired_in_the_hosts announced_while thousands_of_services kernel_made thousands_of_backup boots_slowly
NOT_8.4     = in_maintenance does_not_affect typed_into crashes_a_daemon no_packet host_mode another_namespace ipv4_over services_stay no_service_is_retained may_not_announce thousands_of_services
without     = connmark kernel_without_vrf $(if $(EVERY),,$(EVERY_ONLY) \
              $(if $(filter $(1),$(firstword $(SUITES))),,$(FIRST_ONLY)) $(if $(filter $(1),$(or $(word 2,$(SUITES)),$(1))),,$(SECOND_ONLY))) \
              $(if $(filter $(1),bookworm),$(NOT_8.4))

lab: $(SUITES:%=lab-%) lab-nat lab-plain
$(SUITES:%=lab-%): lab-%: build
	@set -e; program="$(call program,--test node)"; test -n "$$program"; \
	LAB_TIMEOUT=2700 $(STEADY) --suite $* $$program --test-threads=1 $(patsubst %,--skip %,$(call without,$*))
lab-nat: build
	@set -e; program="$(call program,--test node)"; test -n "$$program"; \
	LAB_TIMEOUT=1800 $(STEADY) --kernel qemu $$program --test-threads=1 connmark$(if $(EVERY),,::with_the_service_translated)
lab-plain: build
	@set -e; program="$(call program,--test node)"; test -n "$$program"; LAB_WITHOUT=vrf $(STEADY) --kernel uml $$program kernel_without_vrf

# The result of changes to a running configuration, on standalone daemons: [PAIRS=n] [SEED=n]
delta: $(SUITES:%=delta-%)
$(SUITES:%=delta-%): delta-%:
	@set -e; program="$(call program,--test delta)"; test -n "$$program"; \
	LAB_TIMEOUT=7200 LAB_PAIRS=$(PAIRS) LAB_SEED=$(or $(SEED),1) tests/lab/run --kernel any --suite $* $$program --test-threads=1 --nocapture

# FRR has graceful restart for EVPN and IPv6 VTEPs from 10.6 on. 10.3 sometimes loses track of a neighbor of a listen range, and
# reflects nothing to it. EVERY=1: also the tests that take minutes.
vnis = between_two accepts_the $(if $(filter bookworm,$(1)),,only_a_default) $(if $(filter trixie,$(1)),our_own internal_host) $(if $(filter bookworm,$(1)),,the_file_changes $(if $(EVERY),moves)) $(if $(filter forky,$(1)),of_every_kind creates_and_deletes what_is_refused the_valid_rest no_packet is_detected $(if $(EVERY),over_ipv6 silent a_hundred))

evpn: $(SUITES:%=evpn-%)
$(SUITES:%=evpn-%): evpn-%: build
	@set -e; program="$(call program,--test evpn)"; test -n "$$program"; \
	LAB_TIMEOUT=1800 $(STEADY) --suite $* $$program --test-threads=1 $(call vnis,$*)

demo:
	tests/lab/setup uml
	@$(MAKE) build
	@set -e; program="$(call program,--test demo)"; test -n "$$program"; $(LAB) --suite $(SUITE) $$program

matrix:
	tests/lab/setup uml
	@$(MAKE) build
	@set -e; program="$(call program,--test matrix)"; test -n "$$program"; \
	LAB_TIMEOUT=$$((1200 * $(REPEAT))) LAB_REPEAT=$(REPEAT) LAB_NETNS="$(NETNS)" LAB_CELL="$(CELL)" $(LAB) --suite $(SUITE) $$program

# A node that runs the program of the commit FROM is restarted with this one, and back.
upgrade:
	@test -n "$(FROM)" || { echo "FROM=commit: the program that runs first"; exit 1; }
	tests/lab/setup uml
	@$(MAKE) build
	rm -rf _out/from && mkdir -p _out/from && git archive $(FROM) | tar -x -C _out/from
	@CARGO_TARGET_DIR=$(abspath _out/from/target) $(MAKE) -C _out/from build
	@set -e; program="$(call program,--test matrix)"; test -n "$$program"; \
	LAB_TIMEOUT=1200 LAB_NETNS="$(NETNS)" LAB_FROM=$(abspath _out/from/target/$(TARGET)/release/frr-supervisor) \
	$(LAB) --suite $(SUITE) $$program

chaos:
	tests/lab/setup uml
	@$(MAKE) build
	@set -e; program="$(call program,--test chaos)"; test -n "$$program"; \
	LAB_TIMEOUT=$$((300 + 60 * $(KILLS))) LAB_KILLS=$(KILLS) LAB_SECONDS="$(SECONDS)" LAB_SEED="$(SEED)" LAB_NETNS="$(NETNS)" \
	LAB_DELETIONS="$(DELETIONS)" LAB_BFD="$(BFD)" LAB_ROUTES="$(ROUTES)" LAB_SERVICES="$(SERVICES)" LAB_MTU="$(MTU)" \
	LAB_INTERLEAF="$(INTERLEAF)" $(LAB) --suite $(SUITE) $$program

bench:
	tests/lab/setup uml
	@$(MAKE) build
	$(CARGO) test $(ARGS) --lib each_vni -- --ignored --nocapture
	@set -e; program="$(call program,--test bench)"; test -n "$$program"; LAB_TIMEOUT=1800 $(LAB) --suite $(SUITE) $$program
	@set -e; program="$(call program,--test busy)"; test -n "$$program"; LAB_MEM=4096 LAB_TIMEOUT=3600 $(LAB) --suite $(SUITE) $$program
	@set -e; program="$(call program,--test weight)"; test -n "$$program"; LAB_MEM=4096 LAB_TIMEOUT=1800 $(LAB) --suite $(SUITE) $$program
	@# This leaves a program that can use bridges, which the kills on this machine's own kernel need: see LAB_PLAIN.
	@set -e; program="$(call program,--release --test scale)"; test -n "$$program"; for kernel in auto plain; do \
	LAB_TIMEOUT=1800 LAB_VNIS="$(VNIS)" $(LAB) --kernel $$kernel --suite $(SUITE) $$program; done
	@set -e; program="$(call program,--test bench)"; test -n "$$program"; LAB_TIMEOUT=1800 $(LAB) --kernel plain --suite $(SUITE) $$program
	@set -e; program="$(call program,--release --test change)"; test -n "$$program"; LAB_TIMEOUT=1800 LAB_VRFS="$(VRFS)" $(LAB) --kernel any --suite $(SUITE) $$program

# Sample statuses, as the program itself renders them.
page:
	tests/lab/setup page
	rm -rf _out/page && mkdir -p _out/page
	PAGE_OUT=$(abspath _out/page) $(CARGO) test $(ARGS) --lib sample_pages_are_rendered
	tests/page/check.py _out/page

# The metrics of a node in the lab, and the rules.
alerts:
	tests/lab/setup uml promtool
	@$(MAKE) build
	promtool check rules docs/monitoring/alerts.yaml
	promtool test rules docs/monitoring/alerts.test.yaml
	@set -e; program="$(call program,--test node)"; test -n "$$program"; mkdir -p _out; \
	$(LAB) --suite $(SUITE) $$program --nocapture --exact the_metrics_are_well_formed | tee _out/metrics.log | sed -n 's/^metrics: //p' >_out/metrics.txt; \
	grep -q '^frr_supervisor_info' _out/metrics.txt || { cat _out/metrics.log; exit 1; }; \
	promtool check metrics <_out/metrics.txt

# SUITE of the command line, not the one that FRR chooses.
EXTENSION_SUITE := $(if $(filter file,$(origin SUITE)),forky,$(SUITE))

extension: build
	tests/lab/setup extension
	extension/build $(BIN) $(EXTENSION) $(EXTENSION_SUITE)

# Built twice, since both results must be identical.
extension-check: extension
	tests/lab/setup uml
	extension/build $(BIN) $(EXTENSION).again $(EXTENSION_SUITE) >/dev/null
	cmp $(EXTENSION).again/oci/index.json $(EXTENSION)/oci/index.json
	rm -rf $(EXTENSION).again
	@set -e; program="$(call program,--test extension)"; test -n "$$program"; EXTENSION=$(EXTENSION) $$program
	@set -e; program="$(call program,--test talos)"; test -n "$$program"; \
	EXTENSION=$(EXTENSION) LAB_PASS=EXTENSION $(STEADY) --suite forky $$program --test-threads=1 $(TALOS)

frr:
	docker buildx build --file=Pkgfile --target=frr --platform=$(PLATFORM) --progress=auto \
		--build-arg=SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) --provenance=false \
		--tag=$(REGISTRY)/$(USERNAME)/frr:$(TAG) --push=$(PUSH) .

deny:
	command -v cargo-deny >/dev/null || RUSTFLAGS= $(CARGO) install --locked cargo-deny
	$(CARGO) deny check

clean:
	$(CARGO) clean
	rm -rf _out
