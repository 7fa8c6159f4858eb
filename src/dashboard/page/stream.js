// The daemon's messages, live: server-sent events, read by fetch() because EventSource sends no Authorization header.
//
// Every read has a bound. When the stream ends or falls silent, it is opened again, later and later.

const MESSAGE_CHARS_MAX = 4 << 20;
const SILENT_MS_MAX = 15_000; // the daemon says something each second
const AGAIN_MS_MIN = 500;
const AGAIN_MS_MAX = 15_000;
const TOKEN_KEY = "mayfly-token"; // in sessionStorage: this tab's, until it is closed

export const token = {
  get: () => sessionStorage.getItem(TOKEN_KEY),
  set: (value) => sessionStorage.setItem(TOKEN_KEY, value),
  forget: () => sessionStorage.removeItem(TOKEN_KEY),
};

// Cuts a stream of text into events; keeps at most one unfinished event.
export class EventReader {
  constructor(take) {
    this.take = take;
    this.rest = "";
  }

  feed(text) {
    this.rest += text.replaceAll("\r\n", "\n");
    for (let end = this.rest.indexOf("\n\n"); end >= 0; end = this.rest.indexOf("\n\n")) {
      this.one(this.rest.slice(0, end));
      this.rest = this.rest.slice(end + 2);
    }
    if (this.rest.length > MESSAGE_CHARS_MAX) throw new Error("a message is too long");
  }

  one(block) {
    let name = "message";
    const data = [];
    for (const line of block.split("\n")) {
      if (line.startsWith("event:")) name = line.slice(6).trim();
      else if (line.startsWith("data:")) data.push(line.slice(line[5] === " " ? 6 : 5));
    }
    if (data.length > 0) this.take(name, data.join("\n"));
  }
}

// on: {message(name, object), link(state, words), login(why)}. States: "live", "waiting", "login".
export class Live {
  constructor(address, on) {
    this.address = address;
    this.on = on;
    this.again_ms = AGAIN_MS_MIN;
    this.timer = 0;
    this.abort = null;
  }

  start() {
    this.stop();
    this.run(new AbortController());
  }

  stop() {
    clearTimeout(this.timer);
    this.abort?.abort();
    this.abort = null;
  }

  async run(abort) {
    this.abort = abort;
    let why = "the daemon ended the stream";
    try {
      const outcome = await this.open(abort);
      if (outcome !== null) why = outcome;
    } catch (fault) {
      why = abort.signal.aborted ? "the daemon has fallen silent" : fault instanceof TypeError ? "no connection" : fault.message;
    }
    if (this.abort !== abort) return; // stopped, or started anew
    this.abort = null;
    if (why === "login") return;
    this.on.link("waiting", why);
    this.timer = setTimeout(() => this.start(), this.again_ms);
    this.again_ms = Math.min(2 * this.again_ms, AGAIN_MS_MAX);
  }

  // Null: the stream came to its end. "login": a token is needed. Else the reason.
  async open(abort) {
    const silent = () => setTimeout(() => abort.abort(), SILENT_MS_MAX);
    let watch = silent();
    try {
      const key = token.get();
      const answer = await fetch(this.address, {
        headers: { Accept: "text/event-stream", ...(key && { Authorization: `Bearer ${key}` }) },
        cache: "no-store", credentials: "omit", redirect: "error", signal: abort.signal,
      });
      if (answer.status === 401 || answer.status === 403) {
        token.forget();
        this.on.login(key ? "The daemon does not take this token." : "");
        return "login";
      }
      if (!answer.ok) return `the daemon answered ${answer.status}`;
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      const events = new EventReader((name, data) => this.on.message(name, JSON.parse(data)));
      for (;;) {
        const { done, value } = await reader.read();
        if (done) return null;
        clearTimeout(watch);
        watch = silent();
        events.feed(value);
        this.again_ms = AGAIN_MS_MIN;
        this.on.link("live", "");
      }
    } finally {
      clearTimeout(watch);
    }
  }
}
