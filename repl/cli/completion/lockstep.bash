# Completion for lockstep(1). Volumes' names come from the daemon, if it is in reach.

_lockstep_volumes() {
    local -a reach=()
    [[ -z $1 ]] || reach=(--control "$1")
    lockstep status --json --timeout 1s "${reach[@]}" 2>/dev/null |
        grep -o '{"name":"[^"]*","state"' | cut -d '"' -f 4
}

_lockstep_witness_volumes() {
    local -a reach=()
    [[ -z $1 ]] || reach=(--control "$1")
    lockstep witness status --json --timeout 1s "${reach[@]}" 2>/dev/null |
        grep -o '{"name":"[^"]*","decree"' | cut -d '"' -f 4
}

_lockstep() {
    local word=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]}
    local command='' volume='' control='' options='--json --control --help' i
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        case ${COMP_WORDS[i]} in
            --control) control=${COMP_WORDS[++i]} ;;
            --timeout | --config | --node | --backing | --metadata | --discard | --keep | --list | --export | --to) ((++i)) ;;
            -*) ;;
            *) if [[ -z $command ]]; then command=${COMP_WORDS[i]}; else volume=${COMP_WORDS[i]}; fi ;;
        esac
    done
    case $previous in
        --control | --config | --backing | --metadata | --keep | --list | --export | --to)
            mapfile -t COMPREPLY < <(compgen -f -- "$word")
            return
            ;;
        --discard)
            mapfile -t COMPREPLY < <(compgen -W local -- "$word")
            return
            ;;
        --timeout | --node) return ;;
    esac
    case $command in
        verify) options+=' --repair --timeout' ;;
        create) options+=' --adopt --force --timeout' ;;
        down | promote | demote) options+=' --force --timeout' ;;
        resolve) options+=' --discard --keep --list --export --to --force --timeout' ;;
        up | resize | switchover) options+=' --timeout' ;;
        witness) options+=' --force --timeout' ;; # of forget
        status) options+=' --watch --timeout' ;;
        events) options+=' --no-follow' ;;
        metadata) options+=' --config --node --backing --metadata --verbose' ;;
        '') options+=' --version' ;;
    esac
    if [[ $word == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$options" -- "$word")
    elif [[ -z $command ]]; then
        mapfile -t COMPREPLY < <(compgen -W 'create up down status events promote demote switchover verify resize resolve metadata witness' -- "$word")
    elif [[ $command == metadata && -z $volume ]]; then
        COMPREPLY=(dump)
    elif [[ $command == witness && -z $volume ]]; then
        mapfile -t COMPREPLY < <(compgen -W 'status history confirm forget adopt' -- "$word")
    elif [[ $command == witness && $volume =~ ^(status|history|confirm|forget)$ ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$(_lockstep_witness_volumes "$control")" -- "$word")
    elif [[ -z $volume || ($command == metadata && $volume == dump) ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$(_lockstep_volumes "$control")" -- "$word")
    fi
}

complete -F _lockstep lockstep
