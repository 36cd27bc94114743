#!/usr/bin/env bash
# One bootstrap for everything: system packages, the environment of requirements.lock.txt, then the command.
set -euo pipefail
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${INFERENCE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/inference-portfolio}

usage() {
  cat <<'USAGE'
./run_all.sh [OPTIONS]          measure on this machine, write report/ (the main job)
./run_all.sh test [PYTEST ARGS] run the tests
./run_all.sh serve fraud|retail [OPTIONS]  a service on 127.0.0.1 (--help: its options)
./run_all.sh monitor [OPTIONS]  services, load, Prometheus and Alertmanager on 127.0.0.1 until Ctrl-C (--help: its options)
./run_all.sh images [OPTIONS]   build the services' images without a container engine, measure them (--help: its options)
./run_all.sh node [OPTIONS]     a node of a Ray cluster, on 127.0.0.1 unless asked otherwise, for --ray (--help: its options)
./run_all.sh lab [ARGS]         JupyterLab on 127.0.0.1
./run_all.sh compare RUN [RUN] what changed beyond the noise between two recorded runs of one machine
./run_all.sh history [NOTEBOOK] where each machine's quantities changed for good over its recorded runs
./run_all.sh publish [OPTIONS]  renew the committed notebooks, figures and both READMEs' results
./run_all.sh lock               compile requirements.lock.txt from pyproject.toml
./run_all.sh --help             this text, then the options of the main job

First word --conda: take the environment from environment.yml with mamba, micromamba or conda instead of venv and pip.
NO_SYSTEM=1        leave system packages alone
PYTHON=python3.12  the Python to use (3.11 or newer)
INFERENCE_CACHE=…  where environments, engines and weights go (default: ~/.cache/inference-portfolio)
USAGE
}

say() { printf '%s\n' "$*" >&2; }
die() { say "run_all.sh: $*"; exit 2; }

ticker=
hush() { [ -z "$ticker" ] || { kill "$ticker" && wait "$ticker"; } 2>/dev/null || true; ticker=; }
trap hush EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Run a command with its output in a log; a line every 20 s meanwhile, the log's end when it fails.
logged() {
  local what=$1 log=$2 status=0; shift 2
  say "$what … (log: $log)"
  # The pause is a read of a pipe in which nothing comes: a sleep would outlive us.
  (exec 9>&-; trap - EXIT; SECONDS=0; while read -rt 20 <> <(:) || kill -0 $$ 2>/dev/null; do say "$what … $SECONDS s"; done) &
  ticker=$!
  "$@" >"$log" 2>&1 </dev/null || status=$?
  hush
  [ $status -eq 0 ] || { say "$what failed; the last lines of $log:"; tail -n 15 "$log" >&2; }
  return $status
}

find_python() {
  local python
  for python in ${PYTHON:-python3.11 python3.12 python3.13 python3}; do
    if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then command -v "$python"; return; fi
  done
  die "no Python 3.11 or newer found${PYTHON:+ (PYTHON=$PYTHON)}; install python3.11 and python3.11-venv, or set PYTHON"
}

# Debian and Ubuntu packages that are not there yet, one a line: what it is for follows the name.
lacking() {
  [ -n "$(command -v chromium chromium-browser google-chrome || true)" ] || echo "chromium (figures as PNG, browser tests)"
  fc-list :lang=zh-tw 2>/dev/null | grep -q . || echo "fonts-noto-cjk (Traditional Chinese text)"
  command -v g++ >/dev/null || echo "build-essential (llama.cpp, compiled forests)"
  command -v redis-server >/dev/null || echo "redis-server (the fraud service's shared store)"
  command -v stress-ng >/dev/null || echo "stress-ng (starves the services in the monitoring drill)"
  { ldconfig -p 2>/dev/null || true; } | grep -q 'libGL\.so\.1' || echo "libgl1 (OpenCV)"
  [ -z "$1" ] || "$1" -c 'import ensurepip, venv' 2>/dev/null || echo "python3-venv (the environment itself)"
  [ -n "${images:-}" ] || return 0
  command -v buildah >/dev/null || echo "buildah (builds images)"
  command -v mmdebstrap >/dev/null || echo "mmdebstrap (bases of images)"
}

system_packages() {
  local missing names root=
  missing=$(lacking "$1")
  [ -n "$missing" ] && [ -z "${NO_SYSTEM:-}" ] || return 0
  names=$(cut -d' ' -f1 <<<"$missing")
  [ "$(id -u)" -eq 0 ] || root="sudo -n"
  if ! command -v apt-get >/dev/null || { [ -n "$root" ] && ! $root true 2>/dev/null; }; then
    say "These system packages are missing and only root can install them; what needs them will be left out:"
    say "  ${missing//$'\n'/$'\n'  }"
    say "To have it all: sudo apt-get install ${names//$'\n'/ }"
    return 0
  fi
  # shellcheck disable=SC2086  # $root and $names are lists of words
  logged "Installing" "$cache/apt.log" $root env DEBIAN_FRONTEND=noninteractive sh -c \
    'apt-get update && apt-get install -y --no-install-recommends -o DPkg::Lock::Timeout=300 "$@"' sh $names ||
    say "Going on without; missing: $(tr '\n' ' ' <<<"$names")"
}

# The environment is keyed by the lock and Python, finished by a marker, built by one process at a time.
environment() {
  local python=$1 lock=$repo/requirements.lock.txt key made_by=conda
  [ -n "$conda" ] || made_by=$("$python" -c 'import sys; print(sys.version, sys.prefix)')
  key=$({ echo "$made_by"; cat "$lock" "$repo/environment.yml"; } | sha256sum | cut -c1-12)
  env=$cache/env-$key
  [ ! -e "$env/ok" ] || return 0
  exec 9>"$env.lock"
  flock -n 9 || { say "Another process builds the environment; waiting …"; flock 9; }
  if [ ! -e "$env/ok" ]; then
    rm -rf "$env"
    if [ -n "$conda" ]; then
      logged "Installing the environment with $conda" "$env.log" env CONDA_ALWAYS_YES=true MAMBA_ALWAYS_YES=true \
        "$conda" env create -p "$env" -f "$repo/environment.yml"
    else
      "$python" -m venv "$env"
      logged "Installing the environment" "$env.log" "$env/bin/python" -m pip install -r "$lock"
    fi || die "the environment could not be built"
    touch "$env/ok"
  fi
  exec 9>&-
}

# The repository's own lib, and no other on the path, is what runs.
enter() {
  export PYTHONPATH=$repo PATH=$env/bin:$PATH PYTHONUNBUFFERED=1 ORT_DISABLE_TELEMETRY=1
  cd "$repo"
  python -c 'import lib, pathlib, sys; sys.exit(pathlib.Path(lib.__file__).parent.parent != pathlib.Path.cwd())' ||
    die "a package called lib shadows $repo/lib; look at PYTHONPATH and site-packages"
}

bootstrap() {
  local python=
  [ -n "$conda" ] || python=$(find_python)
  mkdir -p "$cache"
  system_packages "$python"
  environment "$python"
  enter
}

compile_lock() {
  local python
  python=$(find_python)
  scratch=$(mktemp -d)
  trap 'hush; rm -rf "$scratch"' EXIT
  "$python" -m venv "$scratch/uv"
  logged "Installing uv" "$scratch/log" "$scratch/uv/bin/python" -m pip install uv || exit 1
  cd "$repo"
  "$scratch/uv/bin/uv" pip compile --quiet "$@" pyproject.toml -o requirements.lock.txt
  say "requirements.lock.txt: $(grep -c == requirements.lock.txt) pins"
}

conda= images=
if [ "${1:-}" = --conda ]; then
  conda=$(command -v mamba micromamba conda | head -n 1) || true
  [ -n "$conda" ] || die "--conda, but there is no mamba, micromamba or conda on the PATH"
  shift
fi

case ${1:-} in
  -h | --help)
    usage
    for ready in "$cache"/env-*/ok; do  # any environment that is there will do; none is built for this
      [ ! -e "$ready" ] || { env=${ready%/ok}; enter; exec python -m lib run --help; }
    done
    ;;
  "" | -*) bootstrap; exec python -m lib run "$@" ;;
  publish | compare | history) bootstrap; exec python -m lib "$@" ;;
  serve)
    case ${2:-} in fraud | retail) ;; *) die "serve what? There is: fraud, retail" ;; esac
    bootstrap; exec python -m "lib.pipelines.$2.service" "${@:3}"
    ;;
  monitor)
    shift; bootstrap
    case " $* " in *" --help "*) ;; *)
      python -m lib.monitoring.tools || die "without Prometheus there is nothing to see"
      python -m lib.pipelines.fraud.model || say "The fraud model is not ready; it is left out."
      python -m lib.vision.yolo || say "YOLOv8n is not ready; the retail service is left out."
      # vLLM's quantised forms take long, and are not served here.
      python -c 'from lib.llm import weights; weights.family()' 2>/dev/null || python -m lib.llm.weights ||
        say "The weights are not ready; the LLM is left out."
    esac
    exec python -m lib.monitoring "$@"
    ;;
  images)
    shift; images=1; bootstrap
    case " $* " in *" --help "*) ;; *)
      python -m lib.pipelines.fraud.model || say "The fraud model is not ready: no image of it."
      python -m lib.vision.yolo || say "YOLOv8n is not ready: no image of it."
    esac
    exec python -m lib.images "$@"
    ;;
  node) shift; bootstrap; exec python -m lib.grid node "$@" ;;
  lab) shift; bootstrap; exec jupyter lab --ip 127.0.0.1 --ServerApp.root_dir="$repo" $([ "$(id -u)" -ne 0 ] || echo --allow-root) "$@" ;;
  lock) shift; compile_lock "$@" ;;
  test)
    shift; bootstrap
    # What is missing afterwards is skipped by its tests, with the reason.
    python -m lib.install
    python -m lib.monitoring.tools || say "Prometheus is not ready; tests that need it are skipped."
    python -m lib.pipelines.fraud.model || say "The fraud model is not ready; tests that need it are skipped."
    python -m lib.vision.yolo || say "YOLOv8n is not ready; tests that need it are skipped."
    python -m lib.vision.classifier || say "The classifiers are not ready; tests that need them are skipped."
    python -m lib.llm.weights || say "The weights are not ready; tests that need them are skipped."
    exec python -m pytest "$@"
    ;;
  *) say "unknown command: $1"; usage >&2; exit 2 ;;
esac
