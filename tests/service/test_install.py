"""What `meson install` puts in place: all of it, and it fits together."""
import json
import os
import re
import shutil
import subprocess

import pytest

BUILD = os.environ.get("DDIMD_BUILD", "")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """(the folder that stands for /, the prefix in it)"""
    if not BUILD or not shutil.which("meson"):
        pytest.skip("DDIMD_BUILD names no build folder, or there is no meson")
    folder = tmp_path_factory.mktemp("root")
    subprocess.run(["meson", "install", "--no-rebuild", "-C", BUILD], check=True, capture_output=True,
                   env=dict(os.environ, DESTDIR=str(folder)))
    binary = next(folder.rglob("bin/ddimd"))
    return folder, binary.parent.parent


def unit(path):
    """[section][key] -> list of values: keys may come more than once."""
    sections, section = {}, None
    for line in path.read_text().splitlines():
        if match := re.fullmatch(r"\[(\w+)\]", line):
            section = sections.setdefault(match.group(1), {})
        elif line and line[0] not in "#;":
            key, _, value = line.partition("=")
            section.setdefault(key, []).append(value)
    return sections


def test_files(root):
    _, prefix = root
    for name in ("bin/ddimd", "bin/ddimd-train", "lib/systemd/system/ddimd.service", "lib/systemd/system/ddimd.socket",
                 "lib/sysusers.d/ddimd.conf", "lib/tmpfiles.d/ddimd.conf", "share/ddimd/models/digits.safetensors",
                 "share/ddimd/train/digits.json", "share/man/man8/ddimd.8", "share/man/man5/ddimd.json.5",
                 "share/man/man1/ddimd-train.1", "share/doc/ddimd/README.md", "share/doc/ddimd/OPERATIONS.md"):
        assert (prefix / name).is_file(), name


def test_unit_names_what_is_installed(root):
    folder, prefix = root
    service = unit(prefix / "lib/systemd/system/ddimd.service")["Service"]
    command = service["ExecStart"][0].split()
    assert (folder / command[0][1:]).is_file() and (folder / command[2][1:]).is_file()
    done = subprocess.run([folder / command[0][1:], "--check-config", "--config", folder / command[2][1:]],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert service["Type"] in (["notify"], ["notify-reload"])
    assert (service["Type"] == ["notify"]) == ("ExecReload" in service)


def seconds(text):
    return float(re.fullmatch(r"(\d+)s?", text).group(1))


def test_timeouts_fit_the_defaults(root):
    folder, prefix = root
    service = unit(prefix / "lib/systemd/system/ddimd.service")["Service"]
    schema = json.loads(subprocess.run([prefix / "bin/ddimd", "--config-schema"], capture_output=True, check=True).stdout)
    drain = schema["properties"]["drain_seconds"]["default"]
    assert seconds(service["TimeoutStopSec"][0]) > drain + 10 and seconds(service["WatchdogSec"][0]) >= 30


def test_states_agree(root):
    """The folders of the configuration are the ones that tmpfiles.d makes and that the unit may write to."""
    folder, prefix = root
    tmpfiles = (prefix / "lib/tmpfiles.d/ddimd.conf").read_text()
    made = set(re.findall(r"^[dC] (\S+)", tmpfiles, re.M))
    config = json.loads(next(folder.rglob("etc/ddimd/ddimd.json")).read_text())
    service = unit(prefix / "lib/systemd/system/ddimd.service")["Service"]
    assert {config["models"], config["state"], config["datasets"]} <= made
    assert service["StateDirectory"] == ["ddimd"] and all(p.startswith("/var/lib/ddimd") for p in made)
    source = re.search(r"^C \S+ .* (\S+)$", tmpfiles, re.M).group(1)
    assert (folder / source[1:] / "digits.safetensors").is_file()
    user = re.search(r"^u (\S+)", (prefix / "lib/sysusers.d/ddimd.conf").read_text(), re.M).group(1)
    assert service["User"] == [user]
    socket = unit(prefix / "lib/systemd/system/ddimd.socket")["Socket"]
    assert socket["ListenStream"] == [config["listen"]]


def test_units_verify(root, tmp_path):
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed")
    folder, prefix = root
    for name in ("ddimd.service", "ddimd.socket"):
        text = (prefix / "lib/systemd/system" / name).read_text()
        text = re.sub(r"=/\S*/bin/ddimd\b", f"={prefix}/bin/ddimd", text)
        (tmp_path / name).write_text(text)
    verify = subprocess.run(["systemd-analyze", "verify", "--man=no", tmp_path / "ddimd.service"], capture_output=True,
                            text=True)
    assert (verify.returncode, verify.stderr) == (0, "")
    security = subprocess.run(["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=30",
                               tmp_path / "ddimd.service"], capture_output=True, text=True)
    assert security.returncode == 0, security.stdout[-300:]


def test_manual_pages(root):
    _, prefix = root
    page = (prefix / "share/man/man8/ddimd.8").read_text()
    keys = (prefix / "share/man/man5/ddimd.json.5").read_text()
    schema = json.loads(subprocess.run([prefix / "bin/ddimd", "--config-schema"], capture_output=True, check=True).stdout)
    for name in schema["properties"]:
        assert f"\\fB{name}\\fR" in keys and f"\\fB\\-\\-{name.replace('_', chr(92) + '-')}\\fR" in page, name
    for path in (prefix / "share/man").rglob("*.[158]"):
        assert not re.search("@[A-Z_]+@", path.read_text()), path
        if shutil.which("groff"):
            done = subprocess.run(["groff", "-man", "-ww", "-z", "-Tutf8", path], capture_output=True, text=True)
            assert (done.returncode, done.stderr) == (0, ""), path


def test_package_builds_with_what_the_build_needs():
    """debian/control asks for every library that tools/install-deps installs to build."""
    here = os.path.dirname(os.path.abspath(__file__))
    with open(os.path.join(here, "../../tools/install-deps"), encoding="utf-8") as f:
        needed = set(re.search("build='([^']*)'", f.read()).group(1).split()) - {"gcc", "libc6-dev", "curl", "ca-certificates"}
    with open(os.path.join(here, "../../debian/control"), encoding="utf-8") as f:
        asked = set(re.findall(r"[a-z0-9.+-]+", re.search(r"Build-Depends:((?:.*\n)(?:\s.*\n)*)", f.read()).group(1)))
    assert needed <= asked, needed - asked
