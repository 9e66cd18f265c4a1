# shellcheck shell=bash
# What a run reads: data files with the command that makes each, and what PROFILE=cpu reads instead: drawn scenes and a
# tiny model. For recipes/launch.sh.

# ---------------------------------------------------------------------------------------------------------- data files

declare -A LAUNCH_COMMANDS=() # data file -> the command that makes it
LAUNCH_TRAIN=() LAUNCH_VAL=()

# A recipe's data file, and the converter (of data_preprocess/) with its words; OUT stands for the file:
#   train_data train.parquet coco.py annotations.json images OUT --task detection
train_data() { launch_data_file LAUNCH_TRAIN "$@"; }
val_data() { launch_data_file LAUNCH_VAL "$@"; }

launch_data_file() {
  local -n files=$1
  local file=$DATA_DIR/$2 word command="python $ROOT/data_preprocess/$3"
  for word in "${@:4}"; do
    [[ $word != OUT ]] || word=$file
    [[ $word =~ ^[-_./:,=*{}A-Za-z0-9]+$ ]] || word="'${word//\'/\'\\\'\'}'" # a * stays a pattern
    command+=" $word"
  done
  files+=("$file")
  LAUNCH_COMMANDS[$file]=$command
}

# a.parquet -> a.parquet; a.parquet b.parquet -> [a.parquet,b.parquet]
launch_list() {
  local IFS=,
  if (($# == 1)); then printf '%s\n' "$1"; else printf '[%s]\n' "$*"; fi
}

# The files of --train=... or --val=... for verl: a.parquet,b.parquet -> [/abs/a.parquet,/abs/b.parquet]; addresses stay.
launch_given_files() {
  local files file list=${1#*=}
  list=${list//[\[\]]/}
  [[ -n $list && ,$list, != *,,* ]] || launch_fail "$1: needs FILE[,FILE]; a name is empty"
  IFS=, read -r -a files <<<"$list"
  for file in "${!files[@]}"; do [[ ${files[file]} == *://* ]] || files[file]=$(realpath -ms "${files[file]}"); done
  launch_list "${files[@]}"
}

# The files of TRAIN_FILES and VAL_FILES, one a line.
launch_files() { tr -d '[]' <<<"$TRAIN_FILES,$VAL_FILES" | tr , '\n'; }

launch_print_commands() {
  local file
  for file in "${LAUNCH_TRAIN[@]}" "${LAUNCH_VAL[@]}"; do printf '%s\n' "${LAUNCH_COMMANDS[$file]}"; done
}

# Every missing file with the command that makes it: the end of a run, a note in a dry run.
launch_check_data() {
  local file missing=''
  while read -r file; do
    [[ ! -f $file ]] || continue
    missing+="data file $file does not exist"
    if [[ -n ${LAUNCH_COMMANDS[$file]:-} ]]; then
      missing+="; this makes it:"$'\n'"  ${LAUNCH_COMMANDS[$file]}"$'\n'
    else
      missing+="; data_preprocess/ has the scripts that make such files"$'\n'
    fi
  done < <(launch_files)
  [[ -n $missing ]] || return 0
  [[ $missing != *"this makes it"* ]] || missing+="or use rows of your own: --train FILE[,FILE] --val FILE[,FILE]"
  [[ $LAUNCH_MODE != train ]] || launch_fail "${missing%$'\n'}"
  printf 'note: %s\n' "${missing%$'\n'}" >&2
}

# --------------------------------------------------------------------------------------------------------- PROFILE=cpu

TINY_MODEL=$ROOT/recipes/tiny/qwen3_vl_scenes

# profile FAMILY TASK [FLAG...]: what the recipe is called with PROFILE=cpu on. FAMILY: qwen2-vl | qwen2.5-vl | qwen3-vl;
# TASK and flags: of data_preprocess/coco.py, over drawn scenes. Variables that are set before are kept, those that the
# recipe sets after it as defaults (VAR=${VAR:-...}) are not: environment, then profile, then recipe.
profile() {
  FAMILY=$1 SCENES_TASK=$2 SCENES_FLAGS=("${@:3}")
  case ${PROFILE:=gpu} in
    gpu) PLATFORM=cuda ;;
    cpu)
      PLATFORM=cpu
      : "${RUN_DIR:=$ROOT/outputs/$(basename "$0" .sh)_cpu}" "${GPUS:=1}" "${TRAIN_SCENES:=64}" "${VAL_SCENES:=16}"
      : "${TOTAL_STEPS:=2}" "${TEST_FREQ:=2}" "${SAVE_FREQ:=-1}" "${TRAIN_BATCH:=8}" "${MICRO_BATCH:=8}"
      : "${MAX_PROMPT:=768}" "${MAX_RESPONSE:=96}"
      case $FAMILY in qwen3-vl) : "${MODEL_PATH:=$TINY_MODEL}" ;; *) : "${MODEL_PATH:=$RUN_DIR/model}" ;; esac
      ;;
    *) launch_fail "PROFILE=$PROFILE: needs gpu or cpu" ;;
  esac
}

# With PROFILE=cpu, the files that are not given from outside.
launch_scenes() {
  [[ $PLATFORM == cpu && (-z ${TRAIN_FILES:-} || -z ${VAL_FILES:-}) ]] || return 0
  LAUNCH_SCENES=yes
  : "${TRAIN_FILES:=$RUN_DIR/data/train.parquet}" "${VAL_FILES:=$RUN_DIR/data/val.parquet}"
}

# Makes the untrained tiny model of a family that has no shipped one, if it is not there yet.
launch_make_model() {
  local make="$ROOT/recipes/tiny/make_models.py"
  [[ $PLATFORM == cpu && $MODEL_PATH == "$RUN_DIR/model" && ! -f $MODEL_PATH/config.json ]] || return 0
  launch_say "making an untrained tiny model: $MODEL_PATH"
  python "$make" "random-${FAMILY//./-}" "$MODEL_PATH"
}

# Draws scenes and makes rows of them; again when others are asked for.
launch_draw_scenes() {
  local folder=$RUN_DIR/data split drawn counted=()
  [[ ! -f $MODEL_PATH/tokenizer.json ]] || counted=(--model "$MODEL_PATH") # answers in tokens of this model
  [[ -n ${LAUNCH_SCENES:-} ]] || return 0
  local objects=(--objects-min "${OBJECTS_MIN:-1}" --objects-max "${OBJECTS_MAX:-3}")
  drawn="$TRAIN_SCENES $VAL_SCENES ${objects[*]} $SCENES_TASK ${SCENES_FLAGS[*]}"
  [[ ! -f $folder/.drawn || $(<"$folder/.drawn") != "$drawn" ]] || return 0
  launch_say "drawing $TRAIN_SCENES training and $VAL_SCENES validation scenes"
  rm -rf "$folder"
  mkdir -p "$folder"
  python "$ROOT/data_preprocess/scenes.py" "$folder/scenes" --train "$TRAIN_SCENES" --val "$VAL_SCENES" \
    "${objects[@]}"
  for split in train val; do
    python "$ROOT/data_preprocess/coco.py" "$folder/scenes/annotations/instances_$split.json" "$folder/scenes/$split" \
      "$folder/$split.parquet" --split "$split" --task "$SCENES_TASK" --data-source 'visionr1/scenes_{task}' \
      "${counted[@]}" "${SCENES_FLAGS[@]}"
  done
  printf '%s\n' "$drawn" >"$folder/.drawn"
}
