# Loads what is in /modules, in whatever order this kernel wants: each round
# loads what it can, and the last one none.
load_modules() {
    left=$(cat /modules/list)
    while [ -n "$left" ]; do
        again=
        for module in $left; do
            insmod "/modules/$module.ko" 2>/dev/null || again="$again $module"
        done
        [ "$again" = "$left" ] && break
        left="$again"
    done
    [ -z "$left" ]
}
