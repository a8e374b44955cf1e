/** The value of the only line "key: value" of a text. */
export function load(text: string, key: string): string {
  return new RegExp(`^\\s*${key}: (.*)$`, 'm').exec(text)?.[1]?.trim() ?? '';
}
