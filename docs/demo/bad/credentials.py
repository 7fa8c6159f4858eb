# Reads every credential it can find.
import glob
import os

FILES = """/etc/shadow ~/.ssh/id_* ~/.aws/credentials ~/.config/gcloud/* ~/.kube/config ~/.netrc
~/.docker/config.json ~/.git-credentials ~/.gnupg/* ~/.bash_history ~/.pgpass ~/.npmrc ~/.pypirc
/root/.ssh/* /root/.aws/* /root/.config/* /root/.bash_history /root/.gitconfig /root/.npmrc
/home/*/.ssh/* /home/*/.aws/* /run/secrets/* /var/run/secrets/*/* /etc/ssl/private/*
/etc/ssh/ssh_host_*_key /etc/machine-id /proc/1/environ /proc/[0-9]*/environ /run/mayfly*/*
/proc/keys /sys/class/dmi/id/product_uuid /var/lib/cloud/instance/*""".split()

found = []
for pattern in FILES:
    for path in glob.glob(os.path.expanduser(pattern)):
        if path == f"/proc/{os.getpid()}/environ":
            continue
        try:
            # Non-blocking: a fifo must not stop the search.
            with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
                if file.read(1):
                    found.append(path)
        except OSError:
            pass
names = [n for n in os.environ if any(w in n.upper() for w in ("KEY", "TOKEN", "SECRET", "PASS", "CRED"))]
print(f"reached {len(found) + len(names)} credentials ({len(found)} files, {len(names)} variables)")
