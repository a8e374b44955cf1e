import { defineConfig } from '@playwright/test';

// One cluster for all tests, which do not wait for each other's objects: each has a namespace of its own.
export default defineConfig({
  testDir: '.',
  testMatch: process.env['TESTS'] ?? '*.spec.ts',
  outputDir: 'results/output',
  fullyParallel: false,
  workers: 1,
  retries: 0,
  timeout: 60_000,
  expect: { timeout: 20_000 },
  reporter: [['list']],
  use: {
    browserName: 'chromium',
    launchOptions: { executablePath: process.env['CHROMIUM'] ?? '/usr/bin/chromium', args: ['--no-sandbox'] },
    baseURL: process.env['DASHBOARD'] ?? '',
    ignoreHTTPSErrors: true,
    viewport: { width: 1440, height: 900 },
    screenshot: 'only-on-failure',
    actionTimeout: 20_000,
  },
});
