# What the host's kernel does with the guest's memory: it merges equal pages
# (KSM) and has huge ones (hugetlbfs). Every test says its name and ends with
# its number of faults in FAULTS.
FAULTS=0

# expect WHAT TEST...: a fault unless the test succeeds.
expect() {
    what=$1
    shift
    if "$@"; then
        echo "ok   $what"
    else
        echo "FAIL $what: $*"
        FAULTS=$((FAULTS + 1))
    fi
}

# A guest that waits for input on descriptor $1 with the options that follow.
begin() {
    number=$1
    shift
    mkfifo /tmp/input$number
    "$TRAPEZE" guest -m 64 "$@" < /tmp/input$number > /tmp/output$number 2>&1 &
    eval "pid$number=$! && exec $number> /tmp/input$number"
}

# Seconds at most for a command to succeed.
within() {
    seconds=$1
    shift
    while ! "$@"; do
        seconds=$((seconds - 1))
        [ $seconds -gt 0 ] || return 1
        sleep 1
    done
}

merged() {
    cat /proc/$1/ksm_merging_pages
}

more_merged_than() {
    [ "$(merged $1)" -gt $2 ]
}

free_pages() {
    sed -n 's/^HugePages_Free: *//p' /proc/meminfo
}

# As many of the guest's 16384 pages must be merged: what is larger than a
# handful of tables, and nearly all that are zero.
MANY=12000
object() {
    echo "memory-backend-ram,id=m,size=64M,prealloc=on,merge=$1"
}

begin 3 -object "$(object on)" -machine memory-backend=m
begin 4 -object "$(object off)" -machine memory-backend=m
expect "guest 3 runs" within 120 grep -q '^> ' /tmp/output3
expect "guest 4 runs" within 120 grep -q '^> ' /tmp/output4
expect "nothing is merged before KSM runs" [ "$(merged $pid3)" = 0 ]
echo 20 > /sys/kernel/mm/ksm/sleep_millisecs
echo 4000 > /sys/kernel/mm/ksm/pages_to_scan
echo 1 > /sys/kernel/mm/ksm/run
expect "merge=on: pages are merged" within 120 more_merged_than $pid3 $MANY
expect "merge=off: none is" [ "$(merged $pid4)" = 0 ]
echo "MERGED $(merged $pid3)"
# The guest writes to what is merged now.
printf 'said after merging\rpoweroff\r' >&3
wait $pid3
expect "guest 3 ends well" [ $? = 0 ]
expect "and was still alive" grep -q '^said after merging' /tmp/output3
printf 'poweroff\r' >&4
wait $pid4
expect "guest 4 ends well" [ $? = 0 ]
echo 0 > /sys/kernel/mm/ksm/run

mkdir /huge
mount -t hugetlbfs none /huge
echo 40 > /proc/sys/vm/nr_hugepages
expect "there are huge pages" [ "$(free_pages)" = 40 ]
begin 5 -mem-path /huge -mem-prealloc
expect "-mem-path: the guest runs" within 120 grep -q '^> ' /tmp/output5
expect "in 32 huge pages" [ "$(free_pages)" = 8 ]
printf 'poweroff\r' >&5
wait $pid5
expect "-mem-path: the guest ends well" [ $? = 0 ]
expect "huge pages are given back" [ "$(free_pages)" = 40 ]
"$TRAPEZE" guest -m 64 -append check \
    -object memory-backend-memfd,id=m,size=64M,hugetlb=on -machine memory-backend=m \
    > /tmp/check 2>&1
expect "hugetlb=on: the self-check passes" grep -q GUEST-OK /tmp/check
echo 10 > /proc/sys/vm/nr_hugepages
"$TRAPEZE" guest -m 64 -append check -mem-path /huge > /tmp/check 2>&1
expect "too few huge pages are an error" [ $? = 1 ]
expect "that says so" grep -q 'too few free huge pages of 2048 KiB' /tmp/check
echo "FAULTS $FAULTS"
