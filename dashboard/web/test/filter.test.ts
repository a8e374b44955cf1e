import { describe, expect, test } from 'vitest';
import { parseFilter, type Searchable } from '../src/lib/filter';

const columns = ['Name', 'Ready', 'Status', 'Restarts', 'Age', 'IP', 'Node'];
const row: Searchable = {
  uid: 'cb5488fc-26c6-4fa4-aa98-7e1225e15e9c', ns: 'shop', name: 'web-7d6747679d-4dpzp', cells: ['web-7d6747679d-4dpzp', '1/1', 'Running', '0', '8s', '10.244.1.1', 'worker-2'], labels: { app: 'web', tier: 'front' },
};
const matches = (text: string): boolean => parseFilter(text, columns).matches(row);

describe('a filter', () => {
  test.each([
    '', 'web', 'WEB', 'shop', '10.244.1.1', 'running', 'worker-2', 'cb5488fc', 'app=web', 'app=', 'app==web', 'node:worker-2', 'ns:shop', 'namespace:sho', 'status:running', 'ip:10.244', 'uid:cb5488fc', '-api', 'web -node:worker-1', '/^web-.*p$/', '/WEB/', 'name:web',
  ])('%j matches', (text) => expect(matches(text)).toBe(true));
  test.each(['api', 'web api', 'app=api', 'x=', 'node:worker-1', 'ns:web', '-web', '-app=web', '/^eb/', 'uid:0b54', '5488fc-26'])('%j does not match', (text) => expect(matches(text)).toBe(false));
  test('that is being typed says what is wrong', () => {
    expect(parseFilter('/web-[/', columns).problem).toMatch(/regular expression/i);
    expect(parseFilter('/web-[', columns).problem).toBe('');
  });
  test('asks for images only where there is no column of them', () => {
    expect(parseFilter('image:NGINX web', columns)).toMatchObject({ image: 'nginx' });
    expect(parseFilter('image:nginx', [...columns, 'Images']).image).toBe('');
  });
});
