"""The shell template: every program in /usr/bin works in a box; programs that cannot are missing.

Scripts of the kind that agents write, each program of the image, `ps` beside the host's, git.
"""

import re
import shlex
import subprocess

import pytest


# Only then do `ps` and the like see a command in the background.
IS_SLEEP = 'until read -r name </proc/$!/comm && [ "$name" = sleep ]; do :; done; '


@pytest.fixture
def shell(mayfly, tmp_path):
    def run(script, *flags):
        script = re.sub(r"^sleep \d\d+ & ", lambda begun: begun[0] + IS_SLEEP, script)
        (tmp_path / "script").write_text(script)
        return mayfly.run("-t", "shell", "--file", tmp_path / "script", *flags, "--", "bash", "script")
    return run


# --- every program answers ----------------------------------------------------------------

# Programs without --version, --help or a usage: tested below, or listed with a reason.
SILENT = {"bzexe", "dash", "funzip", "git-shell", "instmodsh", "pidof", "sh", "zipnote", "zipsplit", "zstdgrep"}
EVERY_PROGRAM = r"""
cd /usr/bin
for program in *; do
  [ -f "$program" ] || continue
  for option in --version --help; do
    said=$(timeout 20 "./$program" $option 2>&1 </dev/null | head -c 9999 | tr -d '\0'; exit "${PIPESTATUS[0]}") && continue 2
    grep -qiE 'usage|syntax|version' <<<"$said" && continue 2
  done
  echo "$program"
done
"""


def test_every_program_of_the_image_answers(shell):
    result = shell(EVERY_PROGRAM, "--timeout", "10m", "--cpu-time", "5m")
    assert result["verdict"] == "succeeded"
    assert set(result["stdout"].split()) == SILENT, result


GONE = {
    "of /proc": "free pstree slabtop tload uptime vmstat w fuser",
    "of /sys": "lsblk lscpu lslocks lsmem wdctl",
    "refused": "linux32 pldd setarch",
    "of other users": "su sudo passwd chsh newgrp",
    "no network": "curl wget ssh ping ip apt-get",
}


@pytest.mark.parametrize("kind", GONE)
def test_what_cannot_work_is_not_found(shell, kind):
    for program in GONE[kind].split():
        result = shell(program)
        assert (result["exitCode"], result["stderr"]) == (127, f"script: line 1: {program}: command not found\n"), result


# --- programs that look at the box ------------------------------------------------------------

LOOK = {  # command: the pattern of its stdout
    "nproc": r"[1-9]\d*\n",
    "df --output=target": r"Mounted on\n/\n(/\S+\n)+",
    "df -h /task | tail -n 1": r"disk .*/task\n",
    "findmnt -no FSTYPE /": r"erofs\n",
    "findmnt -no OPTIONS /task": r"rw,.*\n",
    "mountpoint /task": r"/task is a mountpoint\n",
    "id": r"uid=1000\(task\) gid=1000\(task\) groups=1000\(task\)\n",
    "whoami; groups; id -un; getent passwd task": r"task\ntask\ntask\ntask:x:1000:1000:task:/task:/bin/sh\n",
    "who; users; pinky -s | wc -l": r"\n?1\n",  # nobody is logged in
    "hostname; uname -n; arch": r"mayfly\nmayfly\n\w+\n",
    "lsns -no TYPE,NPROCS -t pid": r"pid +\d+\n",
    "lslogins -u --noheadings -o USER": r"root\n(.*\n)*task\n",
    "ipcs -m | head -n 2": r"\n-+ Shared Memory Segments -+\n",
    "prlimit -n -o SOFT --noheadings; ulimit -n": r" *1024\n1024\n",
    "taskset -cp $$ | sed 's/.*: //'; taskset -c 0 nproc": r"[\d,-]+\n1\n",
    "chrt -p $$ | head -n 1": r".*SCHED_OTHER\n",
    "ionice -p $$": r"none: prio \d\n",
    "nice -n 5 nice; renice -n 1 $$ | grep -o 'new priority.*'": r"5\nnew priority 1\n",
    "choom -p $$ | wc -l": r"2\n",
    "top -b -n 1 | sed -n 's/^ *//; /PID/,$ p' | awk '{ print $1, $2, $NF }'": r"PID USER COMMAND\n1 nobody \S+\n2 task bash\n(.*\n)*",
    "pmap $$ | tail -n 1": r" *total +\d+K\n",
    "cd /tmp; pwdx $$": r"\d+: /tmp\n",
    "sleep 100 & pgrep sleep; pgrep -a sleep; pidof sleep": r"(\d+)\n\1 sleep 100\n\1\n",
    "sleep 100 & pkill -x sleep; wait $!; echo $?": r"143\n",
    "sleep 100 & killall sleep; wait $!; echo $?": r"143\n",
    "sleep 100 & pkill -f 'sleep 1..'; wait $!; echo $?; pgrep sleep; echo $?": r"143\n1\n",
    "sleep 3 & pidwait -x sleep; echo $?": r"0\n",
    "sleep 100 & skill -TERM $!; wait $!; echo $?": r"143\n",
    "TERM=dumb COLUMNS=80 LINES=10 timeout --preserve-status -s INT 1 watch -n 0.1 echo seen | grep -ac seen": r"[1-9]\d*\n",
    "(unshare -U true; nsenter -t 1 -n true; dmesg) 2>&1 | grep -oE 'not permitted|Permission denied' | wc -l": r"3\n",
    "stat -c %n,%U,%Y /etc/passwd": r"/etc/passwd,nobody,1704067200\n",
    "setpriv --dump | grep -E '^(no_new|Cap.*bound)|Capability bounding'": r"no_new_privs: 1\nCapability bounding set: \[none\]\n",
    "ldd /bin/true | grep -c libc.so.6": r"1\n",
    "date +%Z; TZ=US/Eastern date -d @1700000000 '+%F %T %Z'": r"UTC\n2023-11-14 17:13:20 EST\n",
    "for z in Japan EST Asia/Calcutta; do TZ=$z date -d @0 +%R; done": r"09:00\n19:00\n05:30\n",
    "zdump US/Pacific | grep -oE 'P[SD]T'": r"P[SD]T\n",
}


@pytest.mark.parametrize("command", LOOK)
def test_a_program_that_looks_at_its_box(shell, command):
    result = shell(command)
    assert re.fullmatch(LOOK[command], result["stdout"]) and result["stderr"] == "", result
    assert result["verdict"] == "succeeded", result


# --- ps -----------------------------------------------------------------------------------------

# The headers of the host's ps, which is procps as well.
PS = ["ps -e", "ps -ef", "ps -eF", "ps -eLf", "ps -ejf", "ps -el", "ps -ely", "ps -ej", "ps ax", "ps aux", "ps -aux", "ps auxww",
      "ps axuf", "ps axjf", "ps axl", "ps -e -f -w -w", "ps -Af --sort=-pid", "ps aux --sort -rss", "ps -ef --forest", "ps -efH",
      "ps -eo pid,ppid,user,pcpu,rss,etime,stat,cmd", "ps axo pid,args", "ps -p 1 -f", "ps -fp 1", "ps --pid 1 u", "ps u 1", "ps -f 1"]


@pytest.mark.parametrize("command", PS)
def test_ps_has_the_columns_that_it_has_elsewhere(shell, command):
    here = shell(f"sleep 100 & {command}")
    there = subprocess.run(shlex.split(command), capture_output=True, text=True, check=True, timeout=60)
    assert here["exitCode"] == 0 and here["stderr"] == "", here
    header, *rows = [line.split() for line in here["stdout"].splitlines()]
    assert header == there.stdout.splitlines()[0].split()
    pids = {row[header.index("PID")] for row in rows}
    one = re.search(r"\b1$|-p 1 |--pid 1 ", command)
    assert pids == {"1"} if one else len(pids & {"1", "2", "3"}) >= 2, here


def test_ps_says_what_a_box_does_not_tell(shell):
    script = "sleep 100 & ps -fp $!; ps u $!; ps -p $! -o pid=,etime=,comm=; ps -o lstart= $!"
    result = shell(script)
    full, user, own = [result["stdout"].splitlines()[i].split() for i in (1, 3, 4)]
    assert full[0] == "task" and full[4] == "-" and full[-2:] == ["sleep", "100"], result
    assert user[0] == "task" and (user[3], user[8]) == ("-", "-") and user[-2:] == ["sleep", "100"], result
    assert own[0] == full[1] == user[1] and own[2] == "sleep", result
    assert (result["exitCode"], result["stderr"]) == (1, "ps: Unable to get system boot time\n"), result


PS_SCRIPTS = {
    "ps -p $$ >/dev/null && echo alive": "alive\n",
    "ps -p 9999 >/dev/null || echo dead": "dead\n",
    "ps -p $$ -o comm=": "bash\n",
    "ps -o user= -p $$": "task\n",
    "sleep 77 & ps aux | awk '/[s]leep 77/ { print $11, $12 }'": "sleep 77\n",
    "sleep 77 & ps -ef | grep '[s]leep 77' | awk '{ print $2 }' | xargs kill; wait $!; echo $?": "143\n",
    "sleep 77 & ps -C sleep -o args=": "sleep 77\n",
    "sleep 77 & ps -fu task | grep -c '[s]leep 77'": "1\n",
    "ps --ppid $$ -o args= --no-headers": "ps --ppid 2 -o args= --no-headers\n",
    "ps --version": "ps from procps-ng 4.0.4\n",
    "ps -u nobody -o pid=": "    1\n",
    "ps --no-such-option 2>&1 | head -n 1": "error: unknown gnu long option\n",
}


@pytest.mark.parametrize("script", PS_SCRIPTS)
def test_ps_in_scripts(shell, script):
    result = shell(script)
    assert result["stdout"] == PS_SCRIPTS[script], result


# --- scripts of agents --------------------------------------------------------------------------

SCRIPTS = {
    "here_document": ("cat <<EOF\n$((6 * 7))\nEOF", "42\n"),
    "process_substitution": ("diff <(seq 3) <(seq 2) >/dev/null; echo $?; paste <(echo a) <(echo b)", "1\na\tb\n"),
    "xargs_parallel": ("seq 20 | xargs -P 4 -n 1 sh -c 'echo $0' | sort -n | tail -n 1", "20\n"),
    "mktemp": ("d=$(mktemp -d) && f=$(mktemp -p $d) && [ -f $f ] && rm -r $d && echo $?", "0\n"),
    "coprocess": ("coproc cat; echo hi >&${COPROC[1]}; read -ru ${COPROC[0]} line; echo $line", "hi\n"),
    "named_pipe": ("mkfifo p; echo x >p & cat p", "x\n"),
    "trap": ("(trap 'echo bye' EXIT; trap 'exit 3' TERM; kill $BASHPID; :); echo $?", "bye\n3\n"),
    "timeout": ("timeout 0.1 sleep 60; echo $?", "124\n"),
    "background": ("nohup sleep 0 & wait $!; setsid echo $?", "0\n"),
    "lock": ("flock -n lock echo locked", "locked\n"),
    "date": ("date -ud '2024-01-31 +1 day' +%F; date -ud @1000000000 +%FT%TZ", "2024-02-01\n2001-09-09T01:46:40Z\n"),
    "utf8": ("x=größe; echo ${#x} ${x^^}; awk '{ print length }' <<<größe; wc -m <<<größe; sed 's/ö/o/' <<<größe; locale charmap",
             "5 GRÖßE\n5\n6\ngroße\nUTF-8\n"),
    "iconv": ("printf '\\xbd\\xe1' | iconv -f GBK; printf '\\xe9' | iconv -f latin1", "结é"),
    "sort_and_shuffle": ("seq 9 | sort -R | sort -n | cmp - <(seq 9) && echo same; shuf -i 1-5 | wc -l; sort -V <<<$'a10\\na9'",
                         "same\n5\na9\na10\n"),
    "awk": ("awk 'BEGIN { printf \"%s %d\\n\", strftime(\"%Y\", 0), length(sprintf(\"%c\", 8364)) }'", "1970 1\n"),
    "jq": ("echo '{\"a\": [1, 2]}' | jq -c '.a | map(. + 1)'; jq -rn '0 | todate'", "[2,3]\n1970-01-01T00:00:00Z\n"),
    "sqlite": ("sqlite3 x.db 'create table t (a); insert into t values (41), (1)' && sqlite3 -json x.db 'select sum(a) as s from t'", '[{"s":42}]\n'),
    "ripgrep": ("mkdir d; echo needle >d/f; rg -c needle d; rg --files d; cd d; rg -c needle </dev/null", "d/f:1\nd/f\nf:1\n"),
    "archives": ("echo hi >f; for k in gz bz2 xz zst; do tar caf a.tar.$k f && tar xOf a.tar.$k; done; zip -q a.zip f; unzip -p a.zip",
                 "hi\n" * 5),
    "hashes": ("printf x | sha256sum | cut -c1-8; printf x | openssl dgst -md5 -r | cut -c1-8; printf x | base64; printf x | xxd -p; openssl rand -hex 4 | wc -c",
               "2d711642\n9dd4e461\neA==\n78\n9\n"),
    "arithmetic": ("echo 'scale=3; 10/3' | bc; echo '2 3 ^ p' | dc; factor 91; numfmt --to=iec 2048; seq -s, 3", "3.333\n8\n91: 7 13\n2.0K\n1,2,3\n"),
    "tables": ("printf 'a b\\ncc d\\n' | column -t; tree --noreport /etc/skel; printf abc | hexdump -e '3/1 \"%02x\"'; cal 1 2024 | head -n 1 | xargs",
               "a   b\ncc  d\n/etc/skel\n616263January 2024\n"),
    "environment": ("NAME=x envsubst <<<'hello $NAME'; echo $HOME $USER $LOGNAME $SHELL $HOSTNAME", "hello x\n/task task task /bin/sh mayfly\n"),
    "make": ("printf 'all: /etc/passwd\\n\\t@echo made\\nnew: old\\n\\t@touch new; echo again\\n' >Makefile; touch old; make; make new; make new",
             "made\nagain\nmake: 'new' is up to date.\n"),
    "copy": ("mkdir d; cp -a /etc/skel d/; cp -r /usr/share/zoneinfo/Etc d/; rsync -a d/ e/; diff -r d e; echo $?; install -m 600 /dev/null s; stat -c %a s",
             "0\n600\n"),
    "uuid": ("uuidgen | tr -d '\\n' | wc -c; uuidgen --sha1 -n @dns -N example.org", "36\naad03681-8b63-5304-89e0-8ca8f49461b5\n"),
    "sparse": ("truncate -s 100M big; du --apparent-size -h big; du big | cut -f 1; fallocate -l 1M full; stat -c %s full; dd if=/dev/zero bs=1k count=2 status=none | wc -c",
               "100M\tbig\n0\n1048576\n2048\n"),
    "loopback": ("(exec 3<>/dev/tcp/127.0.0.1/9) 2>&1 | grep -o refused | uniq", "refused\n"),
    "split": ("seq 10 >f; split -l 4 f part-; cat part-* | cmp - f && ls part-* | wc -l; comm -12 <(seq 3) <(seq 2 4) | xargs; tac f | head -n 1",
              "3\n2 3\n10\n"),
    "time": ("/usr/bin/time -f %x true 2>&1; (time -p true) 2>&1 | wc -l", "0\n3\n"),
    "patch": ("echo a >f; printf -- '--- f\\n+++ f\\n@@ -1 +1 @@\\n-a\\n+b\\n' | patch -s f && cat f", "b\n"),
    "perl": ("perl -MPOSIX -e '$ENV{TZ} = q(Japan); tzset(); print strftime(qq(%R\\n), localtime 0)'", "09:00\n"),
    "file": ("file -b --mime-type /bin/ls /etc/passwd", "application/x-pie-executable\ntext/plain\n"),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_of_an_agent(shell, name):
    script, stdout = SCRIPTS[name]
    result = shell(script)
    assert (result["stdout"], result["stderr"], result["verdict"]) == (stdout, "", "succeeded"), result


# --- git ----------------------------------------------------------------------------------------

GIT = """
git init -q repo && cd repo
echo one >a && git add a && git commit -qm first
git checkout -qb side && echo two >b && git add b && git commit -qm second
git checkout -q main && echo three >c && git add c && git commit -qm third
git merge -q side -m merged
git log --format='%an <%ae> %s' --topo-order --first-parent
cd .. && git clone -q repo copy && git clone -q --bare file:///task/repo bare.git
cd copy && git remote set-url origin ../bare.git && echo four >d && git add d && git commit -qm fourth && git push -q
git -C ../bare.git log --format=%s -n 1; ls
git stash -q 2>/dev/null; git tag -a v1 -m tagged && git describe; git gc -q; git fsck; git status --short
"""


def test_git_works_without_set_up(shell):
    result = shell(GIT)
    assert (result["stdout"].splitlines(), result["stderr"]) == ([
        "task <task@mayfly.invalid> merged", "task <task@mayfly.invalid> third", "task <task@mayfly.invalid> first",
        "fourth", "a", "b", "c", "d", "v1"], ""), result


COMMIT = "git init -q r; cd r; git commit -q --allow-empty -m x; git log --format='%an <%ae> / %cn <%ce>' -n 1"


@pytest.mark.parametrize("set_up,shown", [
    ("export GIT_AUTHOR_NAME=Me GIT_AUTHOR_EMAIL=me@example.org", "Me <me@example.org> / task <task@mayfly.invalid>"),
    ("git config --global user.name Me", "Me <task@mayfly.invalid> / Me <task@mayfly.invalid>"),
    ("printf '[user]\\nemail = me@example.org\\n' >~/.gitconfig", "task <me@example.org> / task <me@example.org>"),
    ("git() { command git -c user.name=Me \"$@\"; }", "Me <task@mayfly.invalid> / Me <task@mayfly.invalid>"),
])
def test_an_identity_of_the_task_is_stronger(shell, set_up, shown):
    result = shell(f"{set_up}\n{COMMIT}")
    assert (result["stdout"], result["stderr"]) == (shown + "\n", ""), result


def test_an_identity_of_the_caller_is_stronger(shell):
    result = shell(COMMIT, "--env", "GIT_AUTHOR_NAME=Me", "--env", "GIT_COMMITTER_EMAIL=me@example.org")
    assert result["stdout"] == "Me <task@mayfly.invalid> / task <me@example.org>\n", result
