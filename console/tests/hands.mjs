// Two ways to do the same: by mouse, or by keyboard alone.

export const mouse = {
  name: 'by mouse',
  press: (target) => target.click(),
  fill: (target, text) => target.fill(text),
}

/** Moves the focus by Tab until it is on the target. Fails if Tab does not lead there. */
async function tabTo(target) {
  await target.waitFor()
  const page = target.page()
  for (let count = 0; count < 160; count++) {
    if (await target.evaluate((element) => element === document.activeElement)) return
    await page.keyboard.press('Tab')
  }
  throw new Error(`Tab does not lead to ${target}`)
}

export const keyboard = {
  name: 'by keyboard alone',
  press: async (target) => {
    await tabTo(target)
    await target.page().keyboard.press('Enter')
  },
  fill: async (target, text) => {
    await tabTo(target)
    await target.page().keyboard.press('Control+a')
    await target.page().keyboard.type(text)
  },
}
