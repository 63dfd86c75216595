#!/bin/sh
# The mini model from nothing to a pack: `runs/mini.sh`. Started again it goes on where it was.
#
# Two lanes run side by side, one thread each, and stop by themselves; a stage that is done is done
# at once when asked for again. RUN holds states and caches, OUT the checkpoint in the published
# layout. HOURS bounds each stage of this call; a stage that was stopped by it goes on next time,
# and what follows waits for it. `HOURS=0` writes the checkpoints of what is trained so far, and
# `python -m training.recipes.milestone` keeps them in KEPT, from which another machine goes on.
set -eu
cd "$(dirname "$0")/.."
RUN=${RUN:-runs/emoji}
OUT=${OUT:-$RUN/checkpoint}
KEPT=${KEPT:-checkpoints/emoji}
CONFIG=${CONFIG:-training/configs/emoji.json}
PYTHON=${PYTHON:-python}
HOURS=${HOURS:-24}
export OMP_WAIT_POLICY=PASSIVE
mkdir -p "$RUN"

# stage NAME MODULE [OPTIONS]: train, unless it is done; fails where it was stopped before its end.
stage() {
    name=$1 module=$2
    shift 2
    [ -e "$RUN/$name.done" ] && return 0
    [ -e "$RUN/$name/state.pt" ] || set -- "$@" $(begun "$name")
    nice -n "${NICE:-4}" "$PYTHON" -u -m "$module" --config "$CONFIG" --run "$RUN" --checkpoint "$OUT" \
        --hours "$HOURS" "$@" >> "$RUN/$name.log" 2>&1
    "$PYTHON" - "$RUN/${STATE:-$name}/cost.json" << 'EOF'
import json, sys
cost = json.load(open(sys.argv[1]))
sys.exit(cost["steps"] < cost["of"])
EOF
    touch "$RUN/$name.done"
}

# begun NAME: the options that go on from the weights in KEPT, where there are some of this stage.
begun() {
    [ ! -e "$KEPT/progress.json" ] || "$PYTHON" - "$KEPT/progress.json" "$1" << 'EOF'
import json, sys
cost = json.load(open(sys.argv[1])).get(sys.argv[2])
print(f"--warm --begun {cost['steps']} --spent {cost['seconds']}" if cost else "")
EOF
}

after() { # NAME: wait for a stage of the other lane
    until [ -e "$RUN/$1.done" ]; do
        [ -e "$RUN/stopped" ] && exit 1
        sleep 20
    done
}

pictures() { # the first frame
    stage image_vae training.recipes.image_vae --steps 4000
    after text
    stage first_frame training.recipes.first_frame \
        --freeze-text --warm-text --muon 4 --steps 5000
    stage settled training.recipes.first_frame --name settled --warm \
        --freeze-text --muon 4 --middling --subject 5 --batch 64 --steps 1700
}

clips() { # what follows it
    stage text training.recipes.text --steps 2000 --batch 48
    stage video_vae training.recipes.video_vae --images 1 --windows 1000 --steps 2607
    stage transformer training.recipes.transformer --warm-text --blocks-from checkpoints/mini \
        --compile --muon 4 --scenes 4000 --steps 3400
    stage native_decoder training.recipes.video_vae \
        --warm --decoder-only --images 0.3 --batch 2 --windows 800 --steps 6000
}

rm -f "$RUN/stopped"
if [ -e "$KEPT/progress.json" ] && ! [ -e "$OUT" ]; then
    cp -r "$KEPT" "$OUT"
    "$PYTHON" - "$KEPT/progress.json" "$RUN" << 'EOF'
import json, pathlib, sys
for name, cost in json.load(open(sys.argv[1])).items():
    if cost["steps"] >= cost["of"]:
        pathlib.Path(sys.argv[2], f"{name}.done").touch()
EOF
fi
if ! [ -e "$OUT/tokenizer_3" ]; then
    "$PYTHON" -m training.data.tokenizers --config "$CONFIG" --checkpoint "$OUT"
fi
# A lane that fails says so, and the other stops where it waits for it.
for lane in pictures clips; do
    (trap '[ $? = 0 ] || touch "$RUN/stopped"' EXIT && "$lane") &
done
wait
[ ! -e "$RUN/stopped" ]
"$PYTHON" -m training.recipes.settings --config "$CONFIG" --checkpoint "$OUT"
