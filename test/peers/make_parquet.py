"""
The Parquet files of test/goldens/training, by pyarrow 26: python make_parquet.py test/goldens/training

Rows have the same content in every file but `messages.parquet`; compression, page version and encodings differ.
"""
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

out = Path(sys.argv[1])
rows = [
    {"prompt": "49+45=", "answer": "94", "id": 1},
    {"prompt": "s:graph=", "answer": "aghpr", "id": 2},
    {"prompt": "größe 日本=", "answer": "😀", "id": 3},
    {"prompt": "r:abc=", "answer": None, "id": 4},
    *({"prompt": f"{i}+1=", "answer": str(i + 1), "id": i} for i in range(5, 41)),
]
table = pa.Table.from_pylist(rows)
for codec in ["none", "snappy", "gzip", "zstd", "brotli", "lz4"]:
    pq.write_table(table, out / f"{codec}.parquet", compression=codec, row_group_size=16)
pq.write_table(
    table,
    out / "v2.parquet",
    compression="zstd",
    data_page_version="2.0",
    use_dictionary=False,
    column_encoding={"prompt": "DELTA_BYTE_ARRAY", "answer": "DELTA_LENGTH_BYTE_ARRAY", "id": "DELTA_BINARY_PACKED"},
)
talks = [
    [{"role": "user", "content": "a?", "name": None}, {"role": "assistant", "content": "b", "name": "x"}],
    [
        {"role": "system", "content": "s", "name": None},
        {"role": "user", "content": "c?", "name": None},
        {"role": "assistant", "content": "d", "name": None},
        {"role": "user", "content": "e?", "name": None},
        {"role": "assistant", "content": "f", "name": None},
    ],
]
part = pa.struct([("role", pa.string()), ("content", pa.string()), ("name", pa.string())])
column = pa.array(talks, type=pa.list_(part))
pq.write_table(pa.table({"messages": column, "prompt_id": ["0", "1"]}), out / "messages.parquet", compression="snappy")
