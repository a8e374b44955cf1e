// Lines of logs of several containers, merged by time, the newest of them kept.

export interface LogLine {
  /** Grows with each line that arrives. */
  n: number;
  /** RFC 3339 with nanoseconds. */
  time: string;
  source: number;
  text: string;
}

/** A line as the API sends it with timestamps=true. */
export function splitLine(line: string): { time: string; text: string } {
  const at = line.indexOf(' ');
  const time = line.slice(0, at < 0 ? line.length : at);
  return /^\d{4}-\d\d-\d\dT/.test(time) ? { time, text: at < 0 ? '' : line.slice(at + 1) } : { time: '', text: line };
}

const escapes = /\u001b\[[0-9;?]*[ -/]*[@-~]|\u001b[@-_]|[\u0000-\u0008\u000b-\u001f\u007f]/g;

/** Removes what would move a terminal's cursor or colour its text. */
export const plain = (text: string): string => (escapes.test(text) ? text.replace(escapes, '') : text);

export class LogBuffer {
  lines: LogLine[] = [];
  /** How many lines were dropped, since there is no room for all. */
  dropped = 0;
  private next = 0;
  private waiting: LogLine[] = [];

  constructor(readonly most: number) {}

  /** Takes a line, which is in lines after flush. */
  add(source: number, line: string): void {
    const { time, text } = splitLine(line);
    this.waiting.push({ n: this.next++, time, source, text: plain(text) });
    // What arrives while nobody looks must not grow without bound either.
    if (this.waiting.length > this.most * 2) {
      this.dropped += this.waiting.length - this.most;
      this.waiting = this.waiting.slice(-this.most);
    }
  }

  /** Merges the lines that have arrived, and returns how many there were. */
  flush(): number {
    const fresh = this.waiting;
    if (!fresh.length) return 0;
    this.waiting = [];
    fresh.sort(before);
    const oldest = fresh[0];
    let at = this.lines.length;
    if (oldest) while (at > 0 && before(this.lines[at - 1] ?? oldest, oldest) > 0) at--;
    const tail = this.lines.splice(at);
    this.lines = this.lines.concat(tail.length ? merge(tail, fresh) : fresh);
    const over = this.lines.length - this.most;
    if (over > 0) {
      this.lines.splice(0, over);
      this.dropped += over;
    }
    return fresh.length;
  }
}

function before(a: LogLine, b: LogLine): number {
  return a.time < b.time ? -1 : a.time > b.time ? 1 : a.n - b.n;
}

function merge(a: LogLine[], b: LogLine[]): LogLine[] {
  const out: LogLine[] = [];
  let [i, j] = [0, 0];
  while (i < a.length || j < b.length) {
    const [x, y] = [a[i], b[j]];
    if (x && (!y || before(x, y) <= 0)) {
      out.push(x);
      i++;
    } else if (y) {
      out.push(y);
      j++;
    }
  }
  return out;
}
