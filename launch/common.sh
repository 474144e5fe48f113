# shellcheck shell=bash
# What the scripts beside this file share: the .venv, what is installed in it, and the lints. Sourced, not run.

repo=$(CDPATH="" cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$repo/.venv
log=$venv/install.log

say() { printf '%s\n' "$*"; }

die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# usage SCRIPT: prints the comment at the head of a script.
usage() { sed -n '2,/^$/s/^# \{0,1\}//p' "$1"; }

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

# Prints the first Python that will do; PYTHON, if set, is the only candidate.
find_python() {
  local candidate candidates=(python3 python3.13 python3.12 python3.11 python)
  [[ -z ${PYTHON:-} ]] || candidates=("$PYTHON")
  for candidate in "${candidates[@]}"; do
    if is_new_enough "$candidate"; then
      printf '%s\n' "$candidate"
      return
    fi
  done
  candidate=${candidates[0]}
  die "dist_ai needs Python 3.11 or newer, but $candidate is $("$candidate" --version 2>/dev/null || echo 'not there');" \
    "install a newer one, or name it: PYTHON=/path/to/python3.11 $0"
}

make_venv() {
  local python output
  if "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    is_new_enough "$venv/bin/python" ||
      die "$venv holds $("$venv/bin/python" --version) and dist_ai needs 3.11 or newer; remove that folder, run this again"
    say "reusing .venv ($("$venv/bin/python" --version))"
    return
  fi
  python=$(find_python) || exit
  say "making .venv ($("$python" --version))"
  if ! output=$("$python" -m venv --clear "$venv" 2>&1); then
    printf '%s\n' "$output" >&2
    rm -rf "$venv"
    die "$python cannot make a virtual environment; on Debian and Ubuntu: apt-get install python3-venv"
  fi
}

# pip_install WHAT ARGUMENTS...: pip's own words go to the log; of them, the errors are shown.
pip_install() {
  local what=$1 start=$SECONDS
  shift
  say "installing $what (minutes the first time; tail -f $log)"
  if "$venv/bin/python" -m pip install --disable-pip-version-check --no-input "$@" >"$log" 2>&1; then
    say "installed $what in $((SECONDS - start)) s"
    return
  fi
  grep -E '^ *(ERROR|error):' "$log" | tail -n 5 >&2 || true
  if grep -qE 'NewConnectionError|NameResolutionError|ConnectTimeout|ProxyError|from versions: none' "$log"; then
    die "pip does not reach its package index: is there a network? Behind a proxy set HTTPS_PROXY; all of it: $log"
  fi
  die "pip could not install $what; all of what it said: $log"
}

has_torch() { "$venv/bin/python" -c 'from importlib.metadata import version as v; v("torch"), v("torchvision")' 2>/dev/null; }

# prepare [EXTRA]: makes .venv and installs the package in it, editable, with the extra; does nothing that is done already.
prepare() {
  local extra=${1:-} done_for stamp
  make_venv
  # What the installation depends on: where the code stands, and what it asks for.
  done_for="$repo $(cat "$repo/pyproject.toml" "$repo/launch/constraints.txt" | cksum)"
  for stamp in "$venv/.installed-dev" "$venv/.installed-${extra:-base}"; do
    if [[ -f $stamp && $(<"$stamp") == "$done_for" ]]; then
      say "reusing what is installed in it"
      return
    fi
  done
  # First, because a bare "torch" would take the newest release and whatever it brings.
  has_torch || pip_install "torch and torchvision" -c "$repo/launch/constraints.txt" torch torchvision
  pip_install "dist_ai${extra:+ and its $extra tools}" -e "$repo${extra:+[$extra]}"
  printf '%s\n' "$done_for" >"$venv/.installed-${extra:-base}"
}

# lint [--fix]: goes through all the checks and fails if one did.
lint() {
  local failed='' check
  local checks=("ruff check ." "ruff format --check ." lint-imports mypy)
  if [[ ${1:-} == --fix ]]; then
    "$venv/bin/ruff" check --quiet --fix "$repo" || true # what it cannot repair is shown below
    "$venv/bin/ruff" format --quiet "$repo"
  fi
  for check in "${checks[@]}"; do
    say "--- $check"
    # shellcheck disable=SC2086 # the words of a check are its arguments
    (cd "$repo" && "$venv/bin/"$check) || failed+="${failed:+, }$check"
  done
  [[ -z $failed ]] || say "failed: $failed; launch/lint --fix repairs some of it" >&2
  [[ -z $failed ]]
}
