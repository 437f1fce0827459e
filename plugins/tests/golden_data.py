"""Turn the golden cases (a NumPy archive) into one file that C++ reads without a library.

    python golden_data.py dcn.npz dcn.bin

Format, little endian: int64 number of cases; per case, for input, offset, weight, bias, output: int64 rank, int64
dimensions, float32 elements in C order. Standard library only, so that any Python 3 will do.
"""

import ast
import struct
import sys
import zipfile

ARRAYS = ("input", "offset", "weight", "bias", "output")


def read_npy(data):
    """Return (dtype, shape, raw bytes) of one .npy file; C order only."""
    if data[:6] != b"\x93NUMPY":
        raise SystemExit("golden_data.py: not a .npy file")
    length_format = "<H" if data[6] == 1 else "<I"
    start = 8 + struct.calcsize(length_format)
    (length,) = struct.unpack(length_format, data[8:start])
    header = ast.literal_eval(data[start : start + length].decode("latin1"))
    if header["fortran_order"]:
        raise SystemExit("golden_data.py: expected C order")
    return header["descr"], header["shape"], data[start + length :]


def main(source, target):
    with zipfile.ZipFile(source) as archive, open(target, "wb") as out:
        dtype, _, raw = read_npy(archive.read("cases.npy"))
        width = 4 * int(dtype[2:])  # "<U14": UTF-32, padded with zeros
        names = [raw[i : i + width].decode("utf-32-le").rstrip("\0") for i in range(0, len(raw), width)]
        out.write(struct.pack("<q", len(names)))
        for name in names:
            for array in ARRAYS:
                dtype, shape, raw = read_npy(archive.read(f"{name}.{array}.npy"))
                if dtype != "<f4":
                    raise SystemExit(f"golden_data.py: {name}.{array} is {dtype}, expected little-endian float32")
                out.write(struct.pack(f"<{1 + len(shape)}q", len(shape), *shape) + raw)
    print(f"{len(names)} cases: {', '.join(names)}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
