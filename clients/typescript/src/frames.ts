// Cap'n Proto's messages cut out of a byte stream: a table of segment sizes, then the segments.
// A message's size is checked in its table, before any of its bytes are stored.

export const SEGMENTS_MAX = 512;

export class FrameReader {
  private chunks: Uint8Array[] = [];
  private bytes = 0;
  /** Bytes of the message, or of the table with its size, that the next step needs. */
  private needed = 8;

  constructor(private readonly messageBytesMax: number) {}

  /** Takes received bytes; yields the messages that are complete. Throws if one is too large. */
  *push(chunk: Uint8Array): Generator<Uint8Array> {
    this.chunks.push(chunk);
    this.bytes += chunk.byteLength;
    while (this.bytes >= this.needed) {
      const all = this.joined();
      this.needed = sizeOf(all, this.messageBytesMax);
      if (this.needed > all.byteLength) continue;
      const message = all.subarray(0, this.needed);
      const rest = all.subarray(this.needed);
      this.chunks = rest.byteLength > 0 ? [rest] : [];
      this.bytes = rest.byteLength;
      this.needed = 8;
      yield message;
    }
  }

  private joined(): Uint8Array {
    const [first] = this.chunks;
    if (first !== undefined && this.chunks.length === 1) return first;
    const all = new Uint8Array(this.bytes);
    let at = 0;
    for (const chunk of this.chunks) {
      all.set(chunk, at);
      at += chunk.byteLength;
    }
    this.chunks = [all];
    return all;
  }
}

// The size of the whole message; or of its table, while the table is incomplete.
function sizeOf(start: Uint8Array, messageBytesMax: number): number {
  const view = new DataView(start.buffer, start.byteOffset, start.byteLength);
  const segments = view.getUint32(0, true) + 1;
  if (segments > SEGMENTS_MAX) throw new Error(`a message of ${segments} segments`);
  const table = (4 + 4 * segments + 7) & ~7;
  if (start.byteLength < table) return table;
  let bytes = table;
  for (let i = 0; i < segments; ++i) bytes += 8 * view.getUint32(4 + 4 * i, true);
  if (bytes > messageBytesMax + table) throw new Error(`a message of ${bytes} bytes`);
  return bytes;
}
