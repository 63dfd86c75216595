#!/bin/sh
# The four distillations and their controls, from the teacher that runs/mini.sh made:
# `runs/chain.sh`. Started again it goes on where it was.
#
# Each row of the table (benchmarks/distillation.json) is a checkpoint in ROWS. Two lanes run side by
# side, one thread each: what the eye sees (decoder, upscaler, first frame), and the transformer's
# (text, pruning, few steps). LESS divides all steps, to try the whole chain quickly. Rows that are
# in KEPT are taken from there (`python -m training.recipes.milestone --rows` puts them there).
set -eu
cd "$(dirname "$0")/.."
RUN=${RUN:-runs/emoji}
OUT=${OUT:-$RUN/checkpoint}
KEPT=${KEPT:-checkpoints/emoji}
ROWS=${ROWS:-$RUN/rows}
CONFIG=${CONFIG:-training/configs/emoji.json}
PYTHON=${PYTHON:-python}
HOURS=${HOURS:-24}
LESS=${LESS:-1}
export OMP_WAIT_POLICY=PASSIVE
mkdir -p "$ROWS"

# copy ROW FROM: the checkpoint ROW begins as FROM.
copy() {
    [ -e "$ROWS/$1" ] && return 0
    cp -r "$ROWS/$2" "$ROWS/$1.part"
    mv "$ROWS/$1.part" "$ROWS/$1"
}

# done_before ROW: whether it is done, here or where it was kept.
done_before() {
    [ -e "$RUN/$1.done" ] && return 0
    [ -e "$KEPT/rows/$1" ] || return 1
    copy "$1" teacher
    cp -r "$KEPT/rows/$1/." "$ROWS/$1"
    touch "$RUN/$1.done"
}

# row ROW FROM STEPS MODULE [OPTIONS]: ROW is FROM, trained; fails where that stopped before its end.
row() {
    name=$1 from=$2 steps=$3 module=$4
    shift 4
    done_before "$name" && return 0
    copy "$name" "$from"
    [ "$steps" = 0 ] || steps=$((steps / LESS + 1))
    nice -n "${NICE:-4}" "$PYTHON" -u -m "$module" --config "$CONFIG" --run "$RUN" --name "$name" \
        --checkpoint "$ROWS/$name" --steps "$steps" --hours "$HOURS" "$@" >> "$RUN/$name.log" 2>&1
    [ "$steps" = 0 ] || "$PYTHON" - "$RUN/$name/cost.json" << 'EOF'
import json, sys
cost = json.load(open(sys.argv[1]))
sys.exit(cost["steps"] < cost["of"])
EOF
    touch "$RUN/$name.done"
}

# prune ROW FROM [OPTIONS]: ROW is FROM with two blocks fewer.
prune() {
    name=$1 from=$2
    shift 2
    done_before "$name" && return 0
    nice -n "${NICE:-4}" "$PYTHON" -m training.distil.prune_blocks "$ROWS/$from" \
        --out "$ROWS/$name" --config "$CONFIG" --run "$RUN" --mode hybrid "$@" \
        >> "$RUN/$name.log" 2>&1
    touch "$RUN/$name.done"
}

# cache FILE MODULE [OPTIONS]: the latents to learn from, where another machine had made them; the
# recipe makes them first, and then no step.
cache() {
    file=$1 module=$2
    shift 2
    [ -e "$RUN/$file" ] || nice -n "${NICE:-4}" "$PYTHON" -m "$module" --config "$CONFIG" \
        --run "$RUN" --checkpoint "$ROWS/teacher" --warm --hours 0 "$@" >> "$RUN/caches.log" 2>&1
}

seen() { # decoder, first frame, upscaler
    decoder=training.distil.decoder
    row donor teacher 1500 $decoder --donor --muon 1
    row decoder-surgery donor 0 $decoder
    row decoder donor 3000 $decoder --muon 1
    row decoder-scratch donor 3000 $decoder --muon 1 --start scratch
    row decoder-pixels donor 3000 $decoder --muon 1 --perceptual 0
    cache first_latents.pt training.recipes.first_frame
    row frame decoder 3000 training.distil.first_frame --teacher "$ROWS/teacher"
    row upscaler frame 2200 training.recipes.upscaler
}

moved() { # text, pruning, few steps
    text=training.distil.text flow=training.recipes.transformer
    set -- --teacher "$ROWS/teacher"
    row student teacher 3000 $text "$@" --pretrain
    row text student 3000 $text "$@"
    row text-extended student 3000 $text "$@" --mode extend
    row text-trained student 3000 $text "$@" --mode train
    row text-plain student 3000 $text "$@" --cosine 0
    row text-random student 3000 $text "$@" --random
    cache clip_latents.pt $flow
    prune pruned text
    prune pruned-random text --random
    row stage-1 pruned 300 $flow --warm --freeze-text --lr 3e-5
    row stage-2 stage-1 1500 training.distil.pruned --teacher "$ROWS/text"
    row stage-2-alone pruned 1500 training.distil.pruned --teacher "$ROWS/text"
    row stage-1-long pruned 2700 $flow --warm --freeze-text --lr 3e-5
    row stage-2-random pruned-random 1500 training.distil.pruned --teacher "$ROWS/text"
    set -- --teacher "$ROWS/stage-2" --mode hybrid --guidance 1 --few 1 1 1
    row few stage-2 3000 training.distil.steps "$@"
    row few-rollouts stage-2 800 training.distil.self_forcing --few 1 1 1
    row few-flow stage-2 1500 $flow --warm --freeze-text --lr 3e-5
}

rm -f "$RUN/stopped"
[ -e "$ROWS/teacher" ] || { cp -r "$OUT" "$ROWS/teacher.part" && mv "$ROWS/teacher.part" "$ROWS/teacher"; }
for lane in seen moved; do
    (trap '[ $? = 0 ] || touch "$RUN/stopped"' EXIT && "$lane") &
done
wait
[ ! -e "$RUN/stopped" ]
# All rows draw with the small decoder but the teacher's, and those that are about decoders.
for row in text text-extended text-trained text-plain text-random pruned pruned-random \
    stage-1 stage-2 stage-2-alone stage-1-long stage-2-random few few-rollouts few-flow; do
    rm -rf "$ROWS/$row/causal_video_vae"
    cp -r "$ROWS/decoder/causal_video_vae" "$ROWS/$row/causal_video_vae"
done
# What is shipped: the few-step transformer and its text side, and all the other lane's parts.
copy shipped upscaler
for part in text_encoder_3 context_adapter diffusion_transformer_320p neodragon.json; do
    rm -rf "$ROWS/shipped/$part"
    cp -r "$ROWS/few/$part" "$ROWS/shipped/$part"
done
"$PYTHON" - "$ROWS/upscaler/neodragon.json" "$ROWS/shipped/neodragon.json" << 'EOF'
import json, pathlib, sys
frame, shipped = (json.loads(pathlib.Path(file).read_text("utf-8")) for file in sys.argv[1:])
shipped["first_frame"] = frame["first_frame"]
pathlib.Path(sys.argv[2]).write_text(json.dumps(shipped, indent=1) + "\n", "utf-8")
EOF
"$PYTHON" -m training.export "$ROWS/shipped" -o "$RUN/pack"
