#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# sbatch and scontrol (by the name it is called by) as far as exported scripts use them: array tasks run one
# after the other, at once; a job that fails stops those that wait for it; one that asks to be requeued is
# run again, three times at most. State and log lie in $SLURM_STANDIN.
log=$SLURM_STANDIN/log
case $0 in
*/scontrol)
  echo "scontrol $*" >> "$log"
  touch "$SLURM_STANDIN/requeue-$2"
  exit ;;
esac
array=0 deps= mem=4000M
while [ $# -gt 0 ]; do
  case $1 in
  --array=*) array=${1#--array=} ;;
  --dependency=afterok:*) deps=${1#--dependency=afterok:} ;;
  --mem=*) mem=${1#--mem=} ;;
  --*) ;;
  *) break ;;
  esac
  shift
done
id=$(( $(cat "$SLURM_STANDIN/next" 2>/dev/null || echo 100) + 1 ))
echo $id > "$SLURM_STANDIN/next"
echo "job $id: array $array after ${deps:-none} stage ${2:-all}" >> "$log"
state=ok
for dep in ${deps//:/ }; do
  [ "$(cat "$SLURM_STANDIN/state-$dep")" = ok ] || state=cancelled
done
if [ $state = ok ]; then
  for task in $(seq "${array%-*}" "${array#*-}"); do
    for try in 1 2 3; do
      rm -f "$SLURM_STANDIN/requeue-$id"
      SLURM_JOB_ID=$id SLURM_ARRAY_TASK_ID=$task SLURM_MEM_PER_NODE=${mem%M} \
        bash "$@" >> "$SLURM_STANDIN/out" 2>&1
      code=$?
      [ -e "$SLURM_STANDIN/requeue-$id" ] || break
    done
    [ $code -eq 0 ] || state=failed-$code
  done
fi
echo $state > "$SLURM_STANDIN/state-$id"
echo "job $id: $state" >> "$log"
echo $id
