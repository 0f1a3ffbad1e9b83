#!/usr/bin/env bash
# A sweep as an array of a real Slurm, one node on this machine: one task is killed and queued again, the shards are merged,
# and the result files must be those of a single process, byte for byte.
#
# Usage: tests/slurm.sh [ACTPATCH], the program to test (target/release/actpatch). Needs Debian or Ubuntu, and root to
# install Slurm and to start its daemons, which it stops again.
set -euo pipefail
cd "$(dirname "$0")/.."

actpatch=$(realpath "${1:-target/release/actpatch}")
[ -x "$actpatch" ] || { echo "$actpatch is missing: cargo build --release"; exit 1; }
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "skipped: the Slurm test needs root on Debian or Ubuntu"
    exit 0
fi
if ! command -v slurmctld >/dev/null || ! command -v slurmd >/dev/null || ! command -v munged >/dev/null; then
    apt-get update -qq
    # The packages' own services are not wanted.
    printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d && chmod +x /usr/sbin/policy-rc.d
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        slurmctld slurmd slurm-client munge >/dev/null
    rm -f /usr/sbin/policy-rc.d
fi

scratch=$(mktemp -d)
chmod 755 "$scratch"
pids=()
finish() {
    local code=$?
    [ $code = 0 ] || tail -n 25 "$scratch"/*.log 2>/dev/null || true
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
    rm -rf "$scratch"
    exit $code
}
trap finish EXIT

# Waits until a command succeeds, at most so many seconds.
await() {
    local seconds=$1
    shift
    for _ in $(seq $((seconds * 10))); do
        if "$@" >/dev/null 2>&1; then return; fi
        sleep 0.1
    done
    echo "after $seconds s still not: $*"
    return 1
}

mkdir -p "$scratch"/{state,spool,munge}
host=$(hostname -s)
export SLURM_CONF=$scratch/slurm.conf
# A requeued task waits for its credential to expire. No cgroups and no accounting: containers have neither.
cat > "$SLURM_CONF" <<CONF
ClusterName=actpatch
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmctldPort=16817
SlurmdPort=16818
AuthType=auth/munge
AuthInfo=socket=$scratch/munge/socket,cred_expire=5
StateSaveLocation=$scratch/state
SlurmdSpoolDir=$scratch/spool
SlurmctldPidFile=$scratch/slurmctld.pid
SlurmdPidFile=$scratch/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=2
KillWait=10
MpiDefault=none
ReturnToService=2
NodeName=$host NodeAddr=127.0.0.1 CPUs=2 RealMemory=1000 State=UNKNOWN
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
dd if=/dev/urandom of="$scratch/munge/key" bs=1024 count=1 status=none
chmod 700 "$scratch/munge"
chmod 400 "$scratch/munge/key"
munged --foreground --force --num-threads 2 --key-file "$scratch/munge/key" --socket "$scratch/munge/socket" \
    --pid-file "$scratch/munge/pid" --seed-file "$scratch/munge/seed" --log-file "$scratch/munge.log" &
pids+=($!)
await 20 test -S "$scratch/munge/socket"
slurmctld -D -L "$scratch/slurmctld.log" >/dev/null 2>&1 &
pids+=($!)
slurmd -D -L "$scratch/slurmd.log" >/dev/null 2>&1 &
pids+=($!)
await 60 scontrol ping
await 60 sh -c "sinfo -h -o %T | grep -qx idle"

# What is to be computed, by one process and by three tasks. Small batches make it last for some seconds.
sweep=(direction-patching-suite --eval-sets simple_test,simple_adverb,simple_book,proper_nouns,medical
    --positions auto,ALL --metrics logit_diff,logit_flip,prob_diff)
data=$scratch/data
"$actpatch" fit-directions --methods mean_diff,pca,svd,kmeans,logistic_regression,random --data-dir "$data" >/dev/null
cp -r "$data" "$scratch/single"
"$actpatch" "${sweep[@]}" --data-dir "$scratch/single" >/dev/null

mkdir "$scratch/bin"
ln -s "$actpatch" "$scratch/bin/actpatch"
ledger=$data/demo/shards/1-of-3/ledger.jsonl
job=$(PATH=$scratch/bin:$PATH sbatch --parsable --array=0-2 --cpus-per-task=1 --mem=200M --chdir="$scratch" \
    --output="$scratch/task-%a.log" deploy/slurm/sweep.sbatch "${sweep[@]}" --data-dir "$data" \
    --threads 1 --batch-tokens 16)
await 60 grep -q '"kind":"done"' "$ledger"
# Slurm kills the task as it would to make room for another job, and queues it again.
scontrol requeue "${job}_1"
echo "task 1 was killed with $(grep -c '"kind":"done"' "$ledger") cells done"
await 20 grep -q 'stopped by a signal' "$scratch/task-1.log"
await 180 sh -c "test -z \"\$(squeue -h -j $job)\""
grep -q 'exist already' "$scratch/task-1.log" || { echo "task 1 did not go on where it stopped"; exit 1; }

"$actpatch" merge --data-dir "$data"
for file in "$scratch"/single/demo/direction_patching_*.csv; do
    cmp "$file" "$data/demo/${file##*/}"
done
echo "merged: $(ls "$scratch"/single/demo/direction_patching_*.csv | wc -l) result files equal those of a single process"
