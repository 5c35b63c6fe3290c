"""Ways to damage a file in place. Each says whether another content may be read from it then."""

import contextlib
import json
import re
import zipfile

import h5py
import numpy as np
from safetensors.numpy import load_file

from laperm_lib.paper import pretrained

KERNEL = "dense_1/dense_1/kernel:0"  # in a published file of F1
# As JSON writes them; some of them no JSON module would write.
_VALUES = (
    *(
        "null",
        "true",
        "-1",
        "0",
        "1.5",
        "NaN",
        "-Infinity",
        "1e308",
        "1e999",
        "9" * 400,
        "9" * 5000,
    ),
    *('""', r'"\u0000"', r'"a\u0000b"', r'"\ud800"', r'"a\nb"', '"../x"', '"/etc/passwd"'),
    *('"mixed_bfloat16"', '"bias"', '"DenseNetwork"', '"none"', f'"{5000 * "x"}"', "[null]"),
    *("[]", "{}", "[[[0]]]", '{"kind": "Adam"}', "[" * 100_000 + "]" * 100_000, '{"a": {"b": 1}}'),
)
_SHAPES = ("(10**12,)", "(1000000000000,)", "(-1,)", "(9223372036854775807, 9)", "()", "(0,)")
_TYPES = ("'|O'", "'<f2'", "'>f8'", "'<U9'", "'|V2'", "'<i4'", "'f4, (9999999)f4'", "None", "?")
_NAMES = (5, np.nan, b"\xff\xfe", "\x01", [b"dense_1"] * 2, [[b"x"]], [b"/"], [b".."], [b""])


def any_bytes(chance, path):
    """As often in the first 200 bytes, where headers are, as anywhere."""
    content = path.read_bytes()
    start = chance.randrange(chance.choice([len(content), min(len(content), 200)]))
    stop, other = start + chance.choice([1, 8, 64, 512]), chance.randrange(start + 1)
    before, part, after = content[:start], content[start:stop], content[stop:]
    huge = chance.choice([2**31, 2**40, 2**63 - 1, 2**64 - 1]).to_bytes(8, "little")
    damaged = {
        "flipped": before + bytes([part[0] ^ 1 << chance.randrange(8)]) + part[1:] + after,
        "truncated": before,
        "zeroed": before + bytes(len(part)) + after,
        "swapped": before[:other] + part + before[other:] + after,
        "doubled": before + part + part + after,
        "huge": before + huge + content[start + 8 :],
    }
    path.write_bytes(chance.choice(list(damaged.values())))
    return path.suffix in (".json", ".log", ".h5")  # which have no checksum


def _other(chance, text):
    """JSON with another value in the place of a name, a number, a list or an object."""
    pattern = chance.choice([r'"[^"]*"|-?\d[\d.e+-]*|true|false|null', r"\[[^\[\]]*\]|\{[^{}]*\}"])
    part = chance.choice([*re.finditer(pattern, text)])
    return text[: part.start()] + chance.choice(_VALUES) + text[part.end() :]


def json_value(chance, path):
    path.write_text(_other(chance, path.read_text()))
    return True


def header(chance, path):
    """The header of a network file, or ours in it, with the hash of that if it can have one."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    text = content[8:start].decode()
    if chance.random() < 0.5:
        text = _other(chance, text)
    else:
        whole = json.loads(text)
        own = _other(chance, whole["__metadata__"]["laperm_lib"])
        with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
            read = json.loads(own)
            del read["sha256"]
            own = json.dumps(read | {"sha256": pretrained._content_hash(read, load_file(path))})
        text = json.dumps(whole | {"__metadata__": {"laperm_lib": own}})
    path.write_bytes(len(text.encode()).to_bytes(8, "little") + text.encode() + content[start:])
    return False  # the weights have a hash of their own


def array(chance, path):
    """An archive whose checksums are right, with an array of another kind or none in a place."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    name = chance.choice(list(entries))
    start, text, rest = entries[name][:10], entries[name][10:128].decode(), entries[name][128:]
    shape = re.sub(r"\(.*\)", chance.choice(_SHAPES), text).rstrip().ljust(117)
    dtype = re.sub(r": '.*?'", f": {chance.choice(_TYPES)}", text).rstrip().ljust(117)
    damaged = [start + f"{each}\n".encode() + rest for each in (shape, dtype)]
    damaged += [entries[name][:99], start + text.encode() + rest[::-1], None]
    entries[name] = chance.choice(damaged)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            if content is not None:
                archive.writestr(name, content)
    return True


def hdf5(chance, path):
    """Names that are none, a kernel of another type or shape, or one that lies elsewhere."""
    there, how = str(path.with_name("other.h5")), chance.randrange(7)
    with h5py.File(path, "r+") as file:
        kernel = file.pop(KERNEL)[()]
        if how == 0:
            file[KERNEL] = kernel
            file.attrs["layer_names"] = chance.choice([*_NAMES, h5py.Empty("f4")])
        elif how == 1:
            kernels = [*map(kernel.astype, ("f2", "f8", "i4", "S4")), kernel.T, kernel * np.nan]
            file[KERNEL] = chance.choice([*kernels, kernel.view([("a", "f4")]), h5py.Empty("f4")])
        elif how == 2:
            file[KERNEL] = h5py.ExternalLink(there, KERNEL)
        elif how == 3:
            layout = h5py.VirtualLayout(kernel.shape, "f4")
            layout[...] = h5py.VirtualSource(there, KERNEL, kernel.shape)
            file.create_virtual_dataset(KERNEL, layout)
        elif how == 4:  # with a bias of 8 GB of zeros, which need no place
            file[KERNEL] = kernel
            file["dense_1"].attrs["weight_names"] = [b"dense_1/kernel:0", b"dense_1/bias:0"]
            file.create_dataset("dense_1/dense_1/bias:0", (2**31,), "f4", chunks=(1024,))
        else:  # in another file, or nowhere
            outside = [(there, 0, kernel.nbytes)] if how == 5 else None
            file.create_dataset(KERNEL, kernel.shape, "f4", external=outside)
    return how < 2
