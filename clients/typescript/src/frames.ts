// Cap'n Proto's messages cut out of a byte stream: a table of segment sizes, then the segments.
// A message's size is checked on its table, before any of it is kept.

export const SEGMENTS_MAX = 512;

export class FrameReader {
  private chunks: Uint8Array[] = [];
  private bytes = 0;
  /** Of the message, or of what tells its size; more are needed before the next step. */
  private needed = 8;

  constructor(private readonly messageBytesMax: number) {}

  /** Takes what was read; gives the messages that are whole now. Throws at one too large. */
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

// What `start` tells: the whole message's size, or the table's where that is not all there.
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
