/* A Vulkan program: a device of the Intel driver, memory, submissions, fences and a timeline. What
 * is drawn is not looked at: shading needs hardware. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <vulkan/vulkan.h>

#define BYTES 65536
#define CHECK(that) \
    do { \
        if (!(that)) { \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #that); \
            exit(1); \
        } \
    } while (0)
#define OK(call) CHECK((call) == VK_SUCCESS)

static VkPhysicalDevice intel(VkInstance instance) {
    VkPhysicalDevice devices[8];
    uint32_t count = 8;
    CHECK(vkEnumeratePhysicalDevices(instance, &count, devices) >= 0);
    for (uint32_t n = 0; n < count; n++) {
        VkPhysicalDeviceProperties properties;
        vkGetPhysicalDeviceProperties(devices[n], &properties);
        if (properties.vendorID == 0x8086) {
            printf("%s\n", properties.deviceName);
            return devices[n];
        }
    }
    CHECK(!"no Intel device");
    return NULL;
}

static VkDeviceMemory allocated(VkPhysicalDevice gpu, VkDevice device, VkBuffer buffer, void **at) {
    VkMemoryRequirements needs;
    VkPhysicalDeviceMemoryProperties memory;
    vkGetBufferMemoryRequirements(device, buffer, &needs);
    vkGetPhysicalDeviceMemoryProperties(gpu, &memory);
    VkMemoryPropertyFlags wanted =
        VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | VK_MEMORY_PROPERTY_HOST_COHERENT_BIT;
    VkMemoryAllocateInfo info = {.sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO,
                                 .allocationSize = needs.size};
    for (uint32_t type = 0; type < memory.memoryTypeCount; type++) {
        if ((needs.memoryTypeBits >> type & 1) &&
            (memory.memoryTypes[type].propertyFlags & wanted) == wanted)
            info.memoryTypeIndex = type;
    }
    VkDeviceMemory allocation;
    OK(vkAllocateMemory(device, &info, NULL, &allocation));
    OK(vkBindBufferMemory(device, buffer, allocation, 0));
    OK(vkMapMemory(device, allocation, 0, VK_WHOLE_SIZE, 0, at));
    return allocation;
}

int main(void) {
    VkApplicationInfo application = {.sType = VK_STRUCTURE_TYPE_APPLICATION_INFO,
                                     .apiVersion = VK_API_VERSION_1_2};
    VkInstanceCreateInfo instance_info = {.sType = VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO,
                                          .pApplicationInfo = &application};
    VkInstance instance;
    OK(vkCreateInstance(&instance_info, NULL, &instance));
    VkPhysicalDevice gpu = intel(instance);
    float priority = 1;
    VkDeviceQueueCreateInfo queue_info = {.sType = VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO,
                                          .queueCount = 1,
                                          .pQueuePriorities = &priority};
    VkPhysicalDeviceVulkan12Features features = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES, .timelineSemaphore = 1};
    VkDeviceCreateInfo device_info = {.sType = VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO,
                                      .pNext = &features,
                                      .queueCreateInfoCount = 1,
                                      .pQueueCreateInfos = &queue_info};
    VkDevice device;
    OK(vkCreateDevice(gpu, &device_info, NULL, &device));
    VkQueue queue;
    vkGetDeviceQueue(device, 0, 0, &queue);

    VkBufferCreateInfo buffer_info = {.sType = VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO,
                                      .size = BYTES,
                                      .usage = VK_BUFFER_USAGE_TRANSFER_DST_BIT |
                                               VK_BUFFER_USAGE_TRANSFER_SRC_BIT};
    VkBuffer buffer;
    OK(vkCreateBuffer(device, &buffer_info, NULL, &buffer));
    void *at;
    VkDeviceMemory memory = allocated(gpu, device, buffer, &at);
    memset(at, 0x5a, BYTES);
    CHECK(((unsigned char *)at)[BYTES - 1] == 0x5a);

    VkCommandPoolCreateInfo pool_info = {
        .sType = VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO,
        .flags = VK_COMMAND_POOL_CREATE_RESET_COMMAND_BUFFER_BIT};
    VkCommandPool pool;
    OK(vkCreateCommandPool(device, &pool_info, NULL, &pool));
    VkCommandBufferAllocateInfo commands_info = {
        .sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO,
        .commandPool = pool,
        .level = VK_COMMAND_BUFFER_LEVEL_PRIMARY,
        .commandBufferCount = 1};
    VkCommandBuffer commands;
    OK(vkAllocateCommandBuffers(device, &commands_info, &commands));

    VkFenceCreateInfo fence_info = {.sType = VK_STRUCTURE_TYPE_FENCE_CREATE_INFO};
    VkFence fence;
    OK(vkCreateFence(device, &fence_info, NULL, &fence));
    VkSemaphoreTypeCreateInfo timeline_info = {.sType = VK_STRUCTURE_TYPE_SEMAPHORE_TYPE_CREATE_INFO,
                                               .semaphoreType = VK_SEMAPHORE_TYPE_TIMELINE};
    VkSemaphoreCreateInfo semaphore_info = {.sType = VK_STRUCTURE_TYPE_SEMAPHORE_CREATE_INFO,
                                            .pNext = &timeline_info};
    VkSemaphore timeline;
    OK(vkCreateSemaphore(device, &semaphore_info, NULL, &timeline));

    for (uint64_t round = 1; round <= 50; round++) {
        VkCommandBufferBeginInfo begin = {.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO};
        OK(vkBeginCommandBuffer(commands, &begin));
        vkCmdFillBuffer(commands, buffer, 0, BYTES, (uint32_t)round);
        OK(vkEndCommandBuffer(commands));
        uint64_t before = round - 1;
        VkTimelineSemaphoreSubmitInfo points = {
            .sType = VK_STRUCTURE_TYPE_TIMELINE_SEMAPHORE_SUBMIT_INFO,
            .waitSemaphoreValueCount = 1,
            .pWaitSemaphoreValues = &before,
            .signalSemaphoreValueCount = 1,
            .pSignalSemaphoreValues = &round};
        VkPipelineStageFlags stage = VK_PIPELINE_STAGE_ALL_COMMANDS_BIT;
        VkSubmitInfo submit = {.sType = VK_STRUCTURE_TYPE_SUBMIT_INFO,
                               .pNext = &points,
                               .waitSemaphoreCount = 1,
                               .pWaitSemaphores = &timeline,
                               .pWaitDstStageMask = &stage,
                               .commandBufferCount = 1,
                               .pCommandBuffers = &commands,
                               .signalSemaphoreCount = 1,
                               .pSignalSemaphores = &timeline};
        OK(vkQueueSubmit(queue, 1, &submit, fence));
        VkSemaphoreWaitInfo wait = {.sType = VK_STRUCTURE_TYPE_SEMAPHORE_WAIT_INFO,
                                    .semaphoreCount = 1,
                                    .pSemaphores = &timeline,
                                    .pValues = &round};
        OK(vkWaitSemaphores(device, &wait, UINT64_MAX));
        OK(vkWaitForFences(device, 1, &fence, VK_TRUE, UINT64_MAX));
        OK(vkResetFences(device, 1, &fence));
        uint64_t reached;
        OK(vkGetSemaphoreCounterValue(device, timeline, &reached));
        CHECK(reached == round);
    }
    uint64_t never = 1000;
    VkSemaphoreWaitInfo late = {.sType = VK_STRUCTURE_TYPE_SEMAPHORE_WAIT_INFO,
                                .semaphoreCount = 1,
                                .pSemaphores = &timeline,
                                .pValues = &never};
    CHECK(vkWaitSemaphores(device, &late, 1000000) == VK_TIMEOUT);
    VkSemaphoreSignalInfo signal = {.sType = VK_STRUCTURE_TYPE_SEMAPHORE_SIGNAL_INFO,
                                    .semaphore = timeline,
                                    .value = never};
    OK(vkSignalSemaphore(device, &signal));
    OK(vkWaitSemaphores(device, &late, UINT64_MAX));
    OK(vkQueueWaitIdle(queue));
    OK(vkDeviceWaitIdle(device));

    vkDestroySemaphore(device, timeline, NULL);
    vkDestroyFence(device, fence, NULL);
    vkDestroyCommandPool(device, pool, NULL);
    vkDestroyBuffer(device, buffer, NULL);
    vkFreeMemory(device, memory, NULL);
    vkDestroyDevice(device, NULL);
    vkDestroyInstance(instance, NULL);
    puts("done");
    return 0;
}
