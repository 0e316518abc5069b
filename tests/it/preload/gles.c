/* A GLES program without a window: a context of the Intel driver, a buffer, draws and a fence. What
 * is drawn is not looked at: shading needs hardware. */
#include <EGL/egl.h>
#include <EGL/eglext.h>
#include <GLES3/gl3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(that) \
    do { \
        if (!(that)) { \
            fprintf(stderr, "%s:%d: %s (EGL %#x, GL %#x)\n", __FILE__, __LINE__, #that, \
                    eglGetError(), glGetError()); \
            exit(1); \
        } \
    } while (0)

int main(void) {
    EGLDisplay display = eglGetPlatformDisplay(EGL_PLATFORM_SURFACELESS_MESA, NULL, NULL);
    CHECK(display != EGL_NO_DISPLAY && eglInitialize(display, NULL, NULL));
    CHECK(eglBindAPI(EGL_OPENGL_ES_API));
    const EGLint attributes[] = {EGL_CONTEXT_CLIENT_VERSION, 3, EGL_NONE};
    EGLContext context =
        eglCreateContext(display, EGL_NO_CONFIG_KHR, EGL_NO_CONTEXT, attributes);
    CHECK(context != EGL_NO_CONTEXT);
    CHECK(eglMakeCurrent(display, EGL_NO_SURFACE, EGL_NO_SURFACE, context));
    const char *renderer = (const char *)glGetString(GL_RENDERER);
    puts(renderer);
    CHECK(strstr(renderer, "Intel"));

    GLuint texture, target, buffer;
    glGenTextures(1, &texture);
    glBindTexture(GL_TEXTURE_2D, texture);
    glTexStorage2D(GL_TEXTURE_2D, 1, GL_RGBA8, 256, 256);
    glGenFramebuffers(1, &target);
    glBindFramebuffer(GL_FRAMEBUFFER, target);
    glFramebufferTexture2D(GL_FRAMEBUFFER, GL_COLOR_ATTACHMENT0, GL_TEXTURE_2D, texture, 0);
    CHECK(glCheckFramebufferStatus(GL_FRAMEBUFFER) == GL_FRAMEBUFFER_COMPLETE);
    glGenBuffers(1, &buffer);
    glBindBuffer(GL_ARRAY_BUFFER, buffer);
    char data[4096] = {1, 2, 3};
    glBufferData(GL_ARRAY_BUFFER, sizeof data, data, GL_DYNAMIC_DRAW);
    for (int round = 0; round < 20; round++) {
        glClearColor(round / 20.f, 0, 1, 1);
        glClear(GL_COLOR_BUFFER_BIT);
        GLsync fence = glFenceSync(GL_SYNC_GPU_COMMANDS_COMPLETE, 0);
        glFlush();
        GLenum waited = glClientWaitSync(fence, GL_SYNC_FLUSH_COMMANDS_BIT, 10000000000u);
        CHECK(waited == GL_ALREADY_SIGNALED || waited == GL_CONDITION_SATISFIED);
        glDeleteSync(fence);
    }
    char *mapped = glMapBufferRange(GL_ARRAY_BUFFER, 0, sizeof data, GL_MAP_READ_BIT);
    CHECK(mapped && memcmp(mapped, data, sizeof data) == 0);
    glUnmapBuffer(GL_ARRAY_BUFFER);
    unsigned char pixel[4];
    glReadPixels(0, 0, 1, 1, GL_RGBA, GL_UNSIGNED_BYTE, pixel);
    glFinish();
    CHECK(glGetError() == GL_NO_ERROR);
    CHECK(eglMakeCurrent(display, EGL_NO_SURFACE, EGL_NO_SURFACE, EGL_NO_CONTEXT));
    CHECK(eglDestroyContext(display, context) && eglTerminate(display));
    puts("done");
    return 0;
}
