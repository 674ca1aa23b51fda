#!/bin/sh
# Deploy one model version to a cluster of Google Kubernetes Engine, and wait until it is verified.
#
#   scripts/deploy_gke.sh MODEL VERSION [options of `slipway deploy`]
#
# VERSION is a number (3), an alias (champion) or "latest". Where to, in one of two ways:
#
#   TARGET=prod                            a target of slipway.toml
#   GKE_PROJECT  GKE_LOCATION  GKE_CLUSTER  GCS_BUCKET       no configuration file needed
#     and where they differ from what is usual: NAMESPACE (default), SERVICE_ACCOUNT (of the pods)
#
# SERVICE names the service (else the model's name, as Kubernetes can have it), MLFLOW_TRACKING_URI
# the registry, TIMEOUT_S how long to wait (600). Credentials are Application Default Credentials:
# gcloud auth application-default login, or google-github-actions/auth before it.
#
# Exit codes are those of `slipway deploy` (docs/cli.md): 0 verified or live already, 2 usage,
# 3 no answer, 4 not allowed, 5 not found, 7 a check forbids it, 8 it failed, 9 not in time.
set -eu

fail() { # what, what to do
    printf '%s\n%s\n' "$1" "$2" >&2
    exit 2
}

[ $# -ge 2 ] || fail "Usage: $0 MODEL VERSION [options of slipway deploy]" \
    "For example: $0 wine 3, or $0 wine champion"
model=$1 version=$2
shift 2

case $model in
    '' | *[!A-Za-z0-9_.\ -]*)
        fail "The model's name has characters that a reference cannot have." \
            "Call slipway deploy models:/NAME/VERSION itself."
        ;;
esac
case $version in
    '' | *[!A-Za-z0-9_-]*)
        fail "VERSION is neither a number nor an alias." "Write 3, champion or latest."
        ;;
    *[!0-9]*) ref=$model@$version ;;
    *) ref=$model/$version ;;
esac

here=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
if [ -n "${SLIPWAY:-}" ]; then
    slipway=$SLIPWAY
elif [ -x "$here/.venv/bin/slipway" ]; then
    slipway=$here/.venv/bin/slipway
else
    slipway=$(command -v slipway) ||
        fail "There is no slipway command." "Run make setup in $here, or set SLIPWAY to its path."
fi

if [ -z "${TARGET:-}" ]; then
    missing=''
    [ -n "${GKE_PROJECT:-}" ] || missing="$missing GKE_PROJECT"
    [ -n "${GKE_LOCATION:-}" ] || missing="$missing GKE_LOCATION"
    [ -n "${GKE_CLUSTER:-}" ] || missing="$missing GKE_CLUSTER"
    [ -n "${GCS_BUCKET:-}" ] || missing="$missing GCS_BUCKET"
    [ -z "$missing" ] || fail "It is not said where to deploy to: set$missing." \
        "Or set TARGET to a target of slipway.toml."
    TARGET=gke
    export SLIPWAY_TARGETS__GKE__KIND=gke
    export SLIPWAY_TARGETS__GKE__PROJECT="$GKE_PROJECT"
    export SLIPWAY_TARGETS__GKE__LOCATION="$GKE_LOCATION"
    export SLIPWAY_TARGETS__GKE__CLUSTER="$GKE_CLUSTER"
    export SLIPWAY_TARGETS__GKE__BUCKET="gs://${GCS_BUCKET#gs://}"
    export SLIPWAY_TARGETS__GKE__NAMESPACE="${NAMESPACE:-default}"
    export SLIPWAY_TARGETS__GKE__SERVICE_ACCOUNT="${SERVICE_ACCOUNT:-}"
fi

# What a Kubernetes name may be: small letters, digits and dashes, a letter first.
service=${SERVICE:-$(printf '%s' "$model" | tr 'A-Z_. ' 'a-z---')}

exec "$slipway" deploy "$ref" --name "$service" --target "$TARGET" --package gcs \
    --wait --timeout "${TIMEOUT_S:-600}" --yes "$@"
